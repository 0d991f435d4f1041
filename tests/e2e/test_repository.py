"""Bundles come, change and go while the server runs, and no request is lost to it."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from models.bundle.bundle import Bundle
from models.bundle.confidence import Measure, confidence
from tests.bundles import Change, answer_always, copied, edit, set_measure, set_threshold, sign
from tests.conftest import Serve
from tests.e2e import v2
from tests.e2e.conftest import ByHand
from tests.e2e.test_serving import counters

FAST = {"profile_s": 0.2}
WAIT_S = 30
Entry = tuple[str, str, str]


@pytest.fixture(scope="module")
def zoo(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    zoo = tmp_path_factory.mktemp("changing")
    copied(digits_bundle.path, zoo, "digits", 1)
    return zoo


@pytest.fixture(scope="module")
def client(serve: Serve, zoo: Path) -> Iterator[httpx.Client]:
    with serve(zoo, **FAST) as server, httpx.Client(base_url=server.url, timeout=60) as session:
        yield session


@pytest.fixture
def name(request: pytest.FixtureRequest, zoo: Path, client: httpx.Client) -> Iterator[str]:
    """A model name of the test's own; its bundles go when the test ends."""
    own: str = request.function.__name__
    yield own
    client.post(f"/v2/repository/models/{own}/unload")
    shutil.rmtree(zoo / own, ignore_errors=True)


def load(client: httpx.Client, name: str, **parameters: object) -> httpx.Response:
    body = {"parameters": parameters}
    return client.post(f"/v2/repository/models/{name}/load", json=body)


def unload(client: httpx.Client, name: str, **parameters: object) -> httpx.Response:
    body = {"parameters": parameters}
    return client.post(f"/v2/repository/models/{name}/unload", json=body)


def index(client: httpx.Client, name: str, **body: object) -> list[Entry]:
    entries = client.post("/v2/repository/index", json=body).json()
    return [(e["version"], e["state"], e["reason"]) for e in entries if e["name"] == name]


def ask(client: httpx.Client, name: str, by_hand: ByHand, rows: int = 1) -> dict[str, Any]:
    """The default version's outputs, and `version`."""
    said = client.post(f"/v2/models/{name}/infer", json=v2.request(by_hand.images[:rows]))
    assert said.status_code == 200, said.text
    return v2.outputs(said) | {"version": said.json()["model_version"]}


def last_exit(client: httpx.Client, name: str, by_hand: ByHand) -> list[float]:
    parameters = {"threshold": 1.0}
    asked = v2.request(by_hand.images[:1], parameters=parameters)
    said = v2.outputs(client.post(f"/v2/models/{name}/infer", json=asked))
    probabilities: list[float] = said["probabilities"][0]
    return probabilities


def test_highest_version_answers_and_others_stay(
    client: httpx.Client, zoo: Path, digits_bundle: Bundle, by_hand: ByHand, name: str
) -> None:
    for version in (2, 10):
        copied(digits_bundle.path, zoo, name, version)
    assert index(client, name) == [("2", "UNAVAILABLE", ""), ("10", "UNAVAILABLE", "")]
    assert load(client, name, version=2).status_code == 200
    assert ask(client, name, by_hand)["version"] == "2"
    assert load(client, name).status_code == 200
    assert ask(client, name, by_hand)["version"] == "10"
    assert client.get(f"/v2/models/{name}").json()["versions"] == ["2", "10"]
    assert client.get(f"/v2/models/{name}/versions/2/ready").status_code == 200
    assert index(client, name, ready=True) == [("2", "READY", ""), ("10", "READY", "")]
    listed = client.get(f"/v1/models/{name}").json()["versions"]
    assert [entry["version"] for entry in listed] == [10, 2]
    assert unload(client, name, version=10).status_code == 200
    assert ask(client, name, by_hand)["version"] == "2"
    assert index(client, name) == [("2", "READY", ""), ("10", "UNAVAILABLE", "unloaded")]


def test_loading_and_unloading_twice_is_no_error(
    client: httpx.Client, zoo: Path, digits_bundle: Bundle, by_hand: ByHand, name: str
) -> None:  # C32
    copied(digits_bundle.path, zoo, name, 1)
    for _ in range(2):
        assert load(client, name).status_code == 200
        ask(client, name, by_hand)
    stats = client.get(f"/v2/models/{name}/stats").json()["model_stats"]
    assert stats[0]["inference_count"] == 2, "the second load changed nothing"
    for _ in range(2):
        assert unload(client, name).status_code == 200
        refused = client.get(f"/v2/models/{name}/ready")
        assert refused.status_code == 503
        assert "unloaded" in refused.json()["error"]
        refused = client.post(f"/v1/classify?model={name}", files={"image": b"any"})
        assert refused.status_code == 503
        assert "unloaded" in refused.json()["detail"]
    assert load(client, name).status_code == 200
    ask(client, name, by_hand)


def test_what_the_zoo_does_not_hold_is_not_found(client: httpx.Client) -> None:
    for step in (load, unload):
        assert step(client, "unheard").status_code == 404
        assert step(client, "digits", version=7).status_code == 404
    assert client.get("/v2/models/unheard/ready").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"parameters": {"version": 0}},
        {"parameters": {"version": "1/.."}},
        {"parameters": {"config": "{}"}},
        {"parameters": {"file:1/model.onnx": "AAAA"}},
        {"parameters": []},
        [],
    ],
)
def test_bad_management_requests(client: httpx.Client, body: object) -> None:
    for step in ("load", "unload"):
        said = client.post(f"/v2/repository/models/digits/{step}", json=body)
        assert said.status_code == 400
        assert list(said.json()) == ["error"]
    assert client.get("/v2/models/digits/ready").status_code == 200
    assert client.post("/v2/repository/index", json={"ready": "yes"}).status_code == 400


def damage(bundle: Path) -> None:
    (bundle / "segment_2.onnx").write_bytes(b"rubbish")


def cut(bundle: Path) -> None:
    (bundle / "exit_3.onnx").unlink()


def make_unrunnable(bundle: Path) -> None:
    damage(bundle)
    sign(bundle)


def renumber(bundle: Path) -> None:
    edit(bundle / "manifest.json", lambda manifest: manifest.update(version=3))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (damage, "segment_2.onnx is damaged"),
        (cut, "exit_3.onnx cannot be read"),
        (make_unrunnable, "cannot be run"),
        (renumber, "directories must be named"),
    ],
)
def test_a_refused_bundle_leaves_the_old_one_serving(
    client: httpx.Client,
    zoo: Path,
    digits_bundle: Bundle,
    by_hand: ByHand,
    name: str,
    harm: Change,
    reason: str,
) -> None:
    copied(digits_bundle.path, zoo, name, 1)
    assert load(client, name).status_code == 200
    before = ask(client, name, by_hand, rows=8)
    failures = counters(client, "offramp_model_load_failures_total")[name,]
    copied(digits_bundle.path, zoo, name, 1, harm)
    refused = load(client, name)
    assert refused.status_code == 400
    assert reason in refused.json()["error"]
    assert counters(client, "offramp_model_load_failures_total")[name,] == failures + 1
    ((version, state, said),) = index(client, name)
    assert (version, state) == ("1", "READY")
    assert reason in said
    assert ask(client, name, by_hand, rows=8) == before
    copied(digits_bundle.path, zoo, name, 1)
    assert load(client, name).status_code == 200
    assert index(client, name) == [("1", "READY", "")]


def test_a_refused_newcomer_is_unavailable(
    client: httpx.Client, zoo: Path, digits_bundle: Bundle, name: str
) -> None:
    copied(digits_bundle.path, zoo, name, 1, damage)
    assert load(client, name).status_code == 400
    ((_, state, reason),) = index(client, name)
    assert state == "UNAVAILABLE"
    assert "damaged" in reason
    for path in (f"/v2/models/{name}/ready", f"/v2/models/{name}", f"/v1/models/{name}"):
        assert client.get(path).status_code == 503
    shutil.rmtree(zoo / name)
    assert index(client, name) == []
    assert client.get(f"/v2/models/{name}/ready").status_code == 404


def test_thresholds_change_without_loading_weights(
    client: httpx.Client, zoo: Path, digits_bundle: Bundle, by_hand: ByHand, name: str
) -> None:
    for threshold, exit in ((0.0, 1), (1.0, 3), (0.0, 1)):
        copied(digits_bundle.path, zoo, name, 1, partial(set_threshold, threshold=threshold))
        assert load(client, name).status_code == 200
        assert ask(client, name, by_hand, rows=4)["exit"] == [exit] * 4
    stats = client.get(f"/v2/models/{name}/stats").json()["model_stats"]
    assert stats[0]["inference_count"] == 12, "the sessions, and what they counted, went on"
    copied(digits_bundle.path, zoo, name, 1, partial(answer_always, index=3))
    assert load(client, name).status_code == 200
    assert ask(client, name, by_hand, rows=4)["label"] == ["3"] * 4
    stats = client.get(f"/v2/models/{name}/stats").json()["model_stats"]
    assert stats[0]["inference_count"] == 4, "other weights are counted anew"


def test_the_measure_of_confidence_changes_with_its_version(
    client: httpx.Client, zoo: Path, digits_bundle: Bundle, by_hand: ByHand, name: str
) -> None:
    for measure in get_args(Measure):
        copied(digits_bundle.path, zoo, name, 1, partial(set_measure, measure=measure))
        assert load(client, name).status_code == 200
        (version,) = client.get(f"/v1/models/{name}").json()["versions"]
        assert version["confidence"] == measure
        said = ask(client, name, by_hand, rows=4)
        expected = [
            confidence(by_hand.probabilities[exit - 1][row : row + 1], measure)[0]
            for row, exit in enumerate(said["exit"])
        ]
        assert said["confidence"] == pytest.approx(expected, abs=1e-5)


def test_replaced_under_load_without_losing_a_request(
    client: httpx.Client, zoo: Path, digits_bundle: Bundle, by_hand: ByHand, name: str
) -> None:
    copied(digits_bundle.path, zoo, name, 1)
    assert load(client, name).status_code == 200
    old = last_exit(client, name, by_hand)
    is_over = threading.Event()

    def keep_asking() -> list[list[float]]:
        said: list[list[float]] = []
        with httpx.Client(base_url=client.base_url, timeout=60) as session:
            while not is_over.is_set() and len(said) < 5000:
                said.append(last_exit(session, name, by_hand))
        return said

    with ThreadPoolExecutor(3) as pool:
        askers = [pool.submit(keep_asking) for _ in range(3)]
        try:
            for label in (7, 4):
                copied(digits_bundle.path, zoo, name, 1, partial(answer_always, index=label))
                assert load(client, name).status_code == 200
                assert last_exit(client, name, by_hand).index(1.0) == label
        finally:
            is_over.set()
        heard = [said for asker in askers for said in asker.result()]
    sure_of_7 = [float(label == 7) for label in range(10)]
    sure_of_4 = [float(label == 4) for label in range(10)]
    near_old = [s for s in heard if s not in (sure_of_7, sure_of_4)]
    assert near_old, "the old version went on answering while the new one was measured"
    assert sure_of_7 in heard
    for said in near_old:
        assert said == pytest.approx(old, abs=1e-5)
    counts = counters(client, "offramp_inferences_total")
    assert counts[name, "failed"] == 0
    assert counts[name, "answered"] == len(heard) + 3


def test_loads_at_once_are_one_after_the_other(
    client: httpx.Client, zoo: Path, digits_bundle: Bundle, by_hand: ByHand, name: str
) -> None:
    for version in (1, 2):
        copied(digits_bundle.path, zoo, name, version)

    def step(number: int) -> int:
        with httpx.Client(base_url=client.base_url, timeout=60) as session:
            return (unload if number % 3 == 2 else load)(session, name).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(step, range(12))) == {200}
    assert load(client, name).status_code == 200
    assert ask(client, name, by_hand)["version"] == "2"


def test_series_of_models_are_made_at_load_and_stay_few(
    client: httpx.Client, zoo: Path, digits_bundle: Bundle, name: str
) -> None:
    copied(digits_bundle.path, zoo, name, 1)
    assert load(client, name).status_code == 200
    assert counters(client, "offramp_model_info")[name, "1"] == 1
    assert (name, "answered") in counters(client, "offramp_inferences_total")
    num_series = client.get("/metrics").text.count("\n")
    for version in (2, 3, 4):
        copied(digits_bundle.path, zoo, name, version)
        assert load(client, name, version=version).status_code == 200
        assert unload(client, name, version=version).status_code == 200
    assert client.get("/metrics").text.count("\n") == num_series
    assert unload(client, name).status_code == 200
    assert client.get("/metrics").text.count("\n") == num_series - 1, "all but its model_info"


@pytest.mark.not_in_image
def test_the_watcher_follows_the_zoo(
    serve: Serve, digits_bundle: Bundle, by_hand: ByHand, tmp_path: Path
) -> None:
    zoo, aside = tmp_path / "zoo", tmp_path / "aside"
    copied(digits_bundle.path, zoo, "digits", 1)
    with (
        serve(zoo, watch_interval_s=0.1, **FAST) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        check_a_lost_zoo_changes_nothing(client, zoo, aside, by_hand, server.log)
        copied(digits_bundle.path, zoo, "digits", 2)
        wait_for(lambda: ask(client, "digits", by_hand)["version"] == "2")
        copied(digits_bundle.path, zoo, "digits", 3, damage)
        shutil.rmtree(zoo / "digits" / "2")
        wait_for(lambda: ask(client, "digits", by_hand)["version"] == "1")
        copied(digits_bundle.path, zoo, "digits", 1, partial(set_threshold, threshold=1.0))
        wait_for(lambda: ask(client, "digits", by_hand, rows=8)["exit"] == [3] * 8)
        check_a_bundle_may_be_copied_manifest_first(client, zoo, digits_bundle, by_hand)
        assert unload(client, "digits", version=1).status_code == 200
        time.sleep(0.3)
        assert index(client, "digits")[0] == ("1", "UNAVAILABLE", "unloaded"), "as it was asked"


def check_a_lost_zoo_changes_nothing(
    client: httpx.Client, zoo: Path, aside: Path, by_hand: ByHand, log: Path
) -> None:
    said = ask(client, "digits", by_hand)

    def check_unchanged(reason: str) -> None:
        wait_for(lambda: reason in log.read_text())
        time.sleep(0.3)
        assert ask(client, "digits", by_hand) == said
        assert index(client, "digits") == [("1", "READY", "")]
        assert client.get("/readyz").status_code == 200

    zoo.rename(aside)
    check_unchanged("cannot be read: No such file")
    zoo.mkdir()  # as where a disk was mounted
    check_unchanged("holds no bundle")
    zoo.rmdir()
    aside.rename(zoo)
    assert log.read_text().count("the zoo is not followed") == 2, "once for each reason"


def check_a_bundle_may_be_copied_manifest_first(
    client: httpx.Client, zoo: Path, bundle: Bundle, by_hand: ByHand
) -> None:
    copied(bundle.path, zoo.parent, "slowly", 1)
    whole, part = zoo.parent / "slowly" / "1", zoo / "slowly" / "1"
    part.mkdir(parents=True)
    shutil.copy(whole / "manifest.json", part)
    wait_for(lambda: "cannot be read" in str(index(client, "slowly")))
    for path in whole.iterdir():
        shutil.copy(path, part)
    wait_for(lambda: index(client, "slowly") == [("1", "READY", "")])
    assert ask(client, "slowly", by_hand)["version"] == "1"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
