"""The whole line on digits: trained, exported, served over HTTP, compared with a run by hand."""

import base64
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.process import ServerProcess
from models.bundle.bundle import Bundle
from models.bundle.policy import policy_at, policy_of_threshold
from tests.conftest import Serve
from tests.e2e.conftest import NUM_IMAGES, ByHand
from training.evaluation.replay import walk

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def server(serve: Serve, digits_zoo: Path) -> Iterator[ServerProcess]:
    with serve(digits_zoo) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as session:
        yield session


def counters(client: httpx.Client, name: str) -> Counter[tuple[str, ...]]:
    """A counter's series by their label values, in the order of the labels' names."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return Counter(
        {
            tuple(value for _, value in sorted(sample.labels.items())): int(sample.value)
            for family in families
            for sample in family.samples
            if sample.name == name
        }
    )


def test_last_exit_equals_the_segments_run_by_hand(client: httpx.Client, by_hand: ByHand) -> None:
    for row, png in enumerate(by_hand.pngs):
        said = client.post("/v1/classify?min_exit=3&top_k=10", content=png, headers=PNG).json()
        assert said["exit"] == said["num_exits"] == 3
        assert said["stop_reason"] == "final"
        assert said["index"] == by_hand.index(row, 3)
        assert said["label"] == str(said["index"])
        ranked = [entry["probability"] for entry in said["top_k"]]
        expected = np.sort(by_hand.probabilities[2][row])[::-1]
        np.testing.assert_allclose(ranked, expected, atol=1e-5)
        assert said["confidence"] == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize("point", ["fast", "balanced", "accurate"])
def test_operating_points_stop_where_the_stop_rule_says(
    client: httpx.Client, by_hand: ByHand, digits_bundle: Bundle, point: str
) -> None:
    policy = policy_at(digits_bundle.calibration.operating_points[point])
    for row, png in enumerate(by_hand.pngs):
        ran, reason = walk(policy, by_hand.confidences[row])
        said = client.post(
            f"/v1/classify?operating_point={point}&trace=true", content=png, headers=PNG
        ).json()
        assert [entry["exit"] for entry in said["trace"]] == ran
        assert (said["exit"], said["stop_reason"]) == (ran[-1], reason)
        assert said["index"] == by_hand.index(row, ran[-1])


def test_threshold_consults_every_exit(client: httpx.Client, by_hand: ByHand) -> None:
    threshold = sorted(confidences[0] for confidences in by_hand.confidences)[NUM_IMAGES // 2]
    policy = policy_of_threshold(threshold + 1e-6, 3)
    exits = Counter(walk(policy, confidences)[0][-1] for confidences in by_hand.confidences)
    assert len(exits) > 1, "the threshold must separate"
    said = Counter(
        client.post(
            "/v1/classify", params={"threshold": threshold + 1e-6}, content=png, headers=PNG
        ).json()["exit"]
        for png in by_hand.pngs
    )
    assert said == exits


def test_macs_count_what_ran(client: httpx.Client, by_hand: ByHand, digits_bundle: Bundle) -> None:
    said = client.post("/v1/classify?threshold=1", content=by_hand.pngs[0], headers=PNG).json()
    graphs = (*digits_bundle.manifest.segments, *digits_bundle.manifest.exit_heads)
    assert said["cost"]["macs"] == sum(graph.macs for graph in graphs)
    assert said["cost"]["energy_source"] == "estimate"
    assert said["cost"]["energy_mj"] == pytest.approx(8 * said["cost"]["compute_ms"], rel=0.02)


def test_max_exit_and_min_exit_bound_the_answer(client: httpx.Client, by_hand: ByHand) -> None:
    png = by_hand.pngs[0]
    for exit in (1, 2, 3):
        said = client.post(
            f"/v1/classify?threshold=1&max_exit={exit}", content=png, headers=PNG
        ).json()
        assert said["exit"] == exit
        assert said["stop_reason"] == ("final" if exit == 3 else "exit_limit")
        said = client.post(
            f"/v1/classify?threshold=0&min_exit={exit}", content=png, headers=PNG
        ).json()
        assert said["exit"] == exit


def test_budget_too_small_still_gets_exit_1(client: httpx.Client, by_hand: ByHand) -> None:
    png = by_hand.pngs[0]
    late = client.post("/v1/classify?threshold=1&latency_budget_ms=0.001", content=png, headers=PNG)
    assert late.json()["exit"] == 1
    assert late.json()["stop_reason"] == "deadline"
    assert late.json()["budget"] == {"latency_ms": 0.001, "energy_mj": None, "met": False}
    dear = client.post(
        "/v1/classify?threshold=1&energy_budget_mj=0.00001", content=png, headers=PNG
    )
    assert dear.json()["exit"] == 1
    assert dear.json()["stop_reason"] == "energy"
    assert dear.json()["budget"]["met"] is False


def test_ample_budget_changes_nothing(client: httpx.Client, by_hand: ByHand) -> None:
    said = client.post(
        "/v1/classify?threshold=1&latency_budget_ms=60000&energy_budget_mj=60000",
        content=by_hand.pngs[0],
        headers=PNG,
    ).json()
    assert (said["exit"], said["stop_reason"]) == (3, "final")
    assert said["budget"] == {"latency_ms": 60000.0, "energy_mj": 60000.0, "met": True}


def test_strict_refuses_before_any_work(client: httpx.Client, by_hand: ByHand) -> None:
    before = counters(client, "offramp_inferences_total")
    refused = client.post(
        "/v1/classify?strict=true&latency_budget_ms=0.001", content=by_hand.pngs[0], headers=PNG
    )
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["errors"][0]["field"] == "latency_budget_ms"
    assert counters(client, "offramp_inferences_total") == before


def test_several_images_in_one_request(client: httpx.Client, by_hand: ByHand) -> None:
    expected = [by_hand.index(row, 3) for row in range(NUM_IMAGES)]
    encoded = [base64.b64encode(png).decode() for png in by_hand.pngs]
    by_json = client.post("/v1/classify", json={"images": encoded, "min_exit": 3}).json()
    assert [said["index"] for said in by_json["results"]] == expected
    files = [("image", png) for png in by_hand.pngs]
    by_form = client.post("/v1/classify", files=files, data={"min_exit": "3"}).json()
    assert [said["index"] for said in by_form["results"]] == expected


def test_one_image_is_answered_alone_however_it_is_sent(
    client: httpx.Client, by_hand: ByHand
) -> None:
    png = by_hand.pngs[0]
    raw = client.post("/v1/classify?min_exit=3", content=png, headers=PNG).json()
    form = client.post("/v1/classify?min_exit=3", files={"image": png}).json()
    body = {"images": [base64.b64encode(png).decode()], "min_exit": 3}
    sent = client.post("/v1/classify", json=body).json()
    assert raw["index"] == form["index"] == sent["index"] == by_hand.index(0, 3)


def test_server_timing_names_every_segment_that_ran(client: httpx.Client, by_hand: ByHand) -> None:
    answer = client.post(
        "/v1/classify?min_exit=2&threshold=0", content=by_hand.pngs[0], headers=PNG
    )
    names = [
        entry.partition(";")[0].strip() for entry in answer.headers["server-timing"].split(",")
    ]
    assert names == ["decode", "queue", "segment_1", "segment_2"]


def test_metrics_count_exactly_what_was_sent(client: httpx.Client, by_hand: ByHand) -> None:
    names = ("offramp_exits_total", "offramp_stops_total", "offramp_inferences_total")
    before = {name: counters(client, name) for name in names}
    sent = {name: Counter[tuple[str, ...]]() for name in names}
    requests = ["?operating_point=fast", "?threshold=1&max_exit=2", "?latency_budget_ms=0.001"]
    for query in requests:
        for png in by_hand.pngs[:20]:
            said = client.post(f"/v1/classify{query}", content=png, headers=PNG).json()
            sent["offramp_exits_total"][str(said["exit"]), "digits"] += 1
            sent["offramp_stops_total"]["digits", said["stop_reason"]] += 1
            sent["offramp_inferences_total"]["digits", "answered"] += 1
    for name in names:
        assert counters(client, name) - before[name] == sent[name]
    assert counters(client, "offramp_in_flight") == Counter({(): 0})


def test_an_answer_and_its_metric_agree_on_the_deadline(
    client: httpx.Client, by_hand: ByHand
) -> None:
    body = {"images": [base64.b64encode(png).decode() for png in by_hand.pngs], "threshold": 1}
    late = 0
    before = counters(client, "offramp_deadline_misses_total")
    for budget_ms in (2, 5, 10, 20, 40):
        said = client.post("/v1/classify", json=body | {"latency_budget_ms": budget_ms})
        if said.status_code == 503:
            continue  # the host is busy: even first answers would come too late
        answers = said.json()["results"]
        met = [answer["budget"]["met"] for answer in answers]
        assert len({answer["cost"]["total_ms"] for answer in answers}) == 1
        late += met.count(False)
    missed = counters(client, "offramp_deadline_misses_total") - before
    assert missed.total() == late


def test_trace_is_there_only_when_asked_for(client: httpx.Client, by_hand: ByHand) -> None:
    said = client.post("/v1/classify", content=by_hand.pngs[0], headers=PNG).json()
    assert "trace" not in said


def test_openapi_documents_problems(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    responses = document["paths"]["/v1/classify"]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "404", "408", "413", "415", "422", "500", "503"}
    assert list(responses["422"]["content"]) == ["application/problem+json"]


def test_openapi_documents_how_images_are_fitted_and_answers_judged(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    fitted, version = schemas["ImageInfo"], schemas["VersionInfo"]
    assert fitted["properties"]["resize"]["enum"] == ["squash", "crop", "pad"]
    assert version["properties"]["judged_by"]["enum"] == ["labels", "last_exit"]
    assert {"resize", "short_side"} <= set(fitted["required"])
    assert version["properties"]["confidence"]["enum"] == ["max_probability", "margin"]
    assert {"judged_by", "confidence"} <= set(version["required"])


def test_models_describe_the_bundle(client: httpx.Client, digits_bundle: Bundle) -> None:
    listed = client.get("/v1/models").json()
    one = client.get("/v1/models/digits").json()
    assert listed == {"models": [one]}
    (version,) = one["versions"]
    assert version["version"] == 1
    assert version["labels"] == list("0123456789")
    assert version["input"] == {
        "kind": "image",
        "height": 8,
        "width": 8,
        "channels": 1,
        "resize": digits_bundle.manifest.image_input.resize,
        "short_side": None,
    }
    assert version["judged_by"] == "labels"
    assert version["confidence"] == digits_bundle.calibration.confidence
    assert [entry["exit"] for entry in version["exits"]] == [1, 2, 3]
    assert all(0 < entry["latency_ms"] < 1000 for entry in version["exits"])
    points = digits_bundle.calibration.operating_points
    assert {k: p["accuracy"] for k, p in version["operating_points"].items()} == {
        name: point.accuracy for name, point in points.items()
    }
    assert {k: p["certificate"] for k, p in version["operating_points"].items()} == {
        name: point.certificate and point.certificate.model_dump() for name, point in points.items()
    }


def test_probes_and_metrics_answer(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
