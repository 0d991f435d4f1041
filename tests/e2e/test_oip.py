"""The Open Inference Protocol on a real server; C numbers are the conformance checks it passes."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle.bundle import Bundle
from models.bundle.policy import policy_at
from server.oip.infer import HEADER_LENGTH
from tests.bundles import copied
from tests.conftest import Serve
from tests.e2e import oip
from tests.e2e.conftest import ByHand
from tests.e2e.test_serving import counters
from tests.server.test_compression import COMPRESS
from training.replay import walk

MAX_BODY_BYTES = 100_000
MAX_IMAGES = 32
NAMES = ["probabilities", "label", "exit", "confidence", "stop_reason"]
INFER = "/v2/models/digits/infer"
EVERY_EXIT = {"threshold": 1.0}


@pytest.fixture(scope="module")
def client(
    serve: Serve, digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    zoo = tmp_path_factory.mktemp("versions")
    for version in (1, 2):
        copied(digits_bundle.path, zoo, "digits", version)
    limits = {"max_body_bytes": MAX_BODY_BYTES, "max_images": MAX_IMAGES, "profile_s": 0.5}
    with serve(zoo, **limits) as server, httpx.Client(base_url=server.url) as session:
        yield session


@pytest.fixture(autouse=True)
def still_serves(client: httpx.Client) -> Iterator[None]:
    yield
    assert client.get("/v2/health/live").status_code == 200
    image = np.zeros((1, 8, 8, 1), np.uint8)
    assert client.post(INFER, json=oip.request(image)).status_code == 200


def refused(said: httpx.Response, status: int = 400) -> str:
    """What the error says; under /v2 every one has the same form (C9)."""
    assert said.status_code == status, said.text
    assert said.headers["content-type"] == "application/json"
    error = said.json()
    assert list(error) == ["error"]
    text: str = error["error"]
    assert text
    assert "Traceback" not in text
    return text


def test_server_metadata_lists_the_extensions(client: httpx.Client) -> None:  # C1
    for path in ("/v2", "/v2/"):
        said = client.get(path).json()
        assert set(said) == {"name", "version", "extensions"}
        assert said["name"] == "offramp"
        assert said["extensions"] == [
            "binary_tensor_data",
            "classification",
            "model_repository",
            "parameters",
            "statistics",
        ]


def test_health(client: httpx.Client) -> None:  # C2, C3
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_model_metadata(client: httpx.Client) -> None:  # C5, C6
    said = client.get("/v2/models/digits").json()
    assert said == {
        "name": "digits",
        "versions": ["1", "2"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "exit", "datatype": "INT32", "shape": [-1]},
            {"name": "confidence", "datatype": "FP32", "shape": [-1]},
            {"name": "stop_reason", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    assert client.get("/v2/models/digits/versions/1").json() == said


def test_outputs_are_what_the_metadata_says(client: httpx.Client, by_hand: ByHand) -> None:
    promised = {o["name"]: o for o in client.get("/v2/models/digits").json()["outputs"]}
    said = client.post(INFER, json=oip.request(by_hand.images[:3])).json()["outputs"]
    assert [output["name"] for output in said] == NAMES
    for output in said:
        assert output["datatype"] == promised[output["name"]]["datatype"]
        assert output["shape"] == [3, *promised[output["name"]]["shape"][1:]]


def test_model_readiness(client: httpx.Client) -> None:  # C4, C6, C7, C8
    for path in ("/v2/models/digits", "/v2/models/digits/versions/2"):
        assert client.get(f"{path}/ready").json() == {"name": "digits", "ready": True}


@pytest.mark.parametrize(
    "path",
    [
        "models/letters",
        "models/letters/ready",
        "models/letters/stats",
        "models/letters/versions/1",
        "models/digits/versions/3",
        "models/digits/versions/3/ready",
        "models/digits/versions/03",
        "models/digits/versions/x",
        "models/digits/versions/-1",
        "models/digits/versions/1.0",
        "models/digits/versions/99999999999999999999",
        "models/..",
        "models/../../etc/passwd",
        "models/%2e%2e",
        "models/..%2fdigits",
        "models/%2Fetc%2Fpasswd",
        "models/digits%2f1",
        "models/digits%00",
        "models/d%C3%AFgits",
        "models/" + "d" * 300,
        "models/digits/versions/..%2f1",
        "models",
        "nowhere",
        "models/digits/config",
        "health",
        "models/digits/",
    ],
)
def test_unknown_models_versions_and_paths(client: httpx.Client, path: str) -> None:  # C7 C8 C35
    refused(untidied(client, "GET", f"/v2/{path}"), 404)
    if path.startswith("models/"):
        refused(untidied(client, "POST", f"/v2/{path}/infer"), 404)


def untidied(client: httpx.Client, method: str, path: str) -> httpx.Response:
    """Sends a path exactly as it is written."""
    return client.request(method, "/", extensions={"target": path.encode()})


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v2", "GET"),
        ("PUT", "/v2/health/live", "GET"),
        ("DELETE", "/v2/models/digits", "GET"),
        ("GET", INFER, "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("GET", "/v2/repository/models/digits/load", "POST"),
    ],
)
def test_wrong_methods(client: httpx.Client, method: str, path: str, allow: str) -> None:  # C31
    said = client.request(method, path)
    refused(said, 405)
    assert said.headers["allow"] == allow


def test_head_is_not_served_and_slashes_count(client: httpx.Client) -> None:  # C34
    assert client.head("/v2/health/live").status_code == 405
    for path in ("/v2/health/live/", "/v2/models/digits/"):
        refused(client.get(path), 404)


@pytest.mark.parametrize("point", ["fast", "balanced", "accurate"])
def test_rows_stop_independently_where_the_stop_rule_says(
    client: httpx.Client, by_hand: ByHand, digits_bundle: Bundle, point: str
) -> None:
    policy = policy_at(digits_bundle.calibration.operating_points[point])
    images = by_hand.images[:MAX_IMAGES]
    asked = oip.request(images, parameters={"operating_point": point})
    said = oip.outputs(client.post(INFER, json=asked))
    for row in range(len(images)):
        ran, reason = walk(policy, by_hand.confidences[row])
        assert (said["exit"][row], said["stop_reason"][row]) == (ran[-1], reason)
        expected = by_hand.probabilities[ran[-1] - 1][row]
        np.testing.assert_allclose(said["probabilities"][row], expected, atol=1e-5)
        assert said["label"][row] == str(expected.argmax())
        assert said["confidence"][row] == max(said["probabilities"][row])


@pytest.mark.parametrize("id", ["42", "", 'a "quoted"\n\\id', "ünï-✓-\U0001f600", "x" * 1000])
def test_id_comes_back(client: httpx.Client, by_hand: ByHand, id: str) -> None:  # C10
    said = client.post(INFER, json=oip.request(by_hand.images[:1], id=id))
    assert said.json()["id"] == id


def test_id_may_be_absent(client: httpx.Client, by_hand: ByHand) -> None:  # C10
    assert "id" not in client.post(INFER, json=oip.request(by_hand.images[:1])).json()


def test_every_form_says_the_same(client: httpx.Client, by_hand: ByHand) -> None:  # C11, C19
    images = by_hand.images[:5]
    flat = oip.request(images, parameters=EVERY_EXIT)
    nested = {"inputs": [oip.tensor(images, data=images.tolist())], "parameters": EVERY_EXIT}
    expected = oip.outputs(client.post(INFER, json=flat))
    assert oip.outputs(client.post(INFER, json=nested)) == expected
    binary_output = {"parameters": EVERY_EXIT | {"binary_data_output": True}}
    assert oip.outputs(client.post(INFER, json=flat | binary_output)) == expected
    body, headers = oip.binary(images, parameters=EVERY_EXIT)
    assert oip.outputs(client.post(INFER, content=body, headers=headers)) == expected
    body, headers = oip.binary(images, **binary_output)
    assert oip.outputs(client.post(INFER, content=body, headers=headers)) == expected
    np.testing.assert_allclose(expected["probabilities"], by_hand.probabilities[2][:5], atol=1e-5)


def test_versioned_path_gives_that_version(client: httpx.Client, by_hand: ByHand) -> None:  # C6
    asked = oip.request(by_hand.images[:1])
    for path, version in ((INFER, "2"), ("/v2/models/digits/versions/1/infer", "1")):
        said = client.post(path, json=asked).json()
        assert (said["model_name"], said["model_version"]) == ("digits", version)


def test_raw_binary_request(client: httpx.Client, by_hand: ByHand) -> None:  # C23
    for row in range(3):
        image = by_hand.images[row : row + 1]
        said = client.post(INFER, content=image.tobytes(), headers={HEADER_LENGTH: "0"})
        assert said.headers[HEADER_LENGTH].isdigit()
        head = json.loads(said.content[: int(said.headers[HEADER_LENGTH])])
        assert all("binary_data_size" in output["parameters"] for output in head["outputs"])
        assert oip.outputs(said) == oip.outputs(client.post(INFER, json=oip.request(image)))
    for content in (b"", b"x" * 63, b"x" * 65, b"x" * 128):
        refused(client.post(INFER, content=content, headers={HEADER_LENGTH: "0"}))


def test_only_the_outputs_asked_for_in_their_order(
    client: httpx.Client, by_hand: ByHand
) -> None:  # C17, C18
    asked = [{"name": "exit"}, {"name": "label", "parameters": {"binary_data": True}}]
    said = client.post(INFER, json=oip.request(by_hand.images[:2], outputs=asked))
    assert list(oip.outputs(said)) == ["exit", "label"]
    for asked_of_all in (oip.request(IMAGE), oip.request(IMAGE, outputs=[])):
        assert list(oip.outputs(client.post(INFER, json=asked_of_all))) == NAMES


def test_an_output_overrides_the_request(client: httpx.Client, by_hand: ByHand) -> None:
    outputs = [{"name": "exit", "parameters": {"binary_data": False}}, {"name": "confidence"}]
    parameters = {"binary_data_output": True}
    body = oip.request(by_hand.images[:1], outputs=outputs, parameters=parameters)
    said = client.post(INFER, json=body)
    head = json.loads(said.content[: int(said.headers[HEADER_LENGTH])])
    assert ["data" in output for output in head["outputs"]] == [True, False]


def test_classification(client: httpx.Client, by_hand: ByHand) -> None:
    images = by_hand.images[:4]
    best = [{"name": "probabilities", "parameters": {"classification": 3}}]
    said = client.post(INFER, json=oip.request(images, outputs=best, parameters=EVERY_EXIT))
    (output,) = said.json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [4, 3])
    for row, texts in enumerate(oip.outputs(said)["probabilities"]):
        values, indices, labels = zip(*(text.split(":") for text in texts), strict=True)
        expected = by_hand.probabilities[2][row]
        ranked = np.argsort(-expected, kind="stable")[:3]
        assert [int(index) for index in indices] == ranked.tolist()
        assert labels == indices, "digits are labelled by themselves"
        np.testing.assert_allclose([float(v) for v in values], expected[ranked], atol=2e-6)


def test_response_says_what_was_spent(client: httpx.Client, by_hand: ByHand) -> None:  # C36
    for budget_ms, met in ((60_000, True), (0.001, False)):
        parameters = EVERY_EXIT | {"latency_budget_ms": budget_ms}
        said = client.post(INFER, json=oip.request(by_hand.images[:2], parameters=parameters))
        spent = said.json()["parameters"]
        assert set(spent) == {"total_ms", "energy_mj", "energy_source", "met"}
        assert spent["met"] is met
        assert spent["energy_mj"] > 0
        reasons = oip.outputs(said)["stop_reason"]
        assert reasons == (["final"] * 2 if met else ["deadline"] * 2)
        assert said.headers["server-timing"].startswith("decode;dur=")


def test_timeout_is_a_latency_budget(client: httpx.Client, by_hand: ByHand) -> None:
    for timeout, exit in ((1, 1), (60_000_000, 3), (0, 3)):
        parameters = EVERY_EXIT | {"timeout": timeout, "priority": 3}
        asked = oip.request(by_hand.images[:1], parameters=parameters)
        assert oip.outputs(client.post(INFER, json=asked))["exit"] == [exit]


def test_exits_and_energy_are_bounded(client: httpx.Client, by_hand: ByHand) -> None:
    for parameters, exit, reason in (
        (EVERY_EXIT | {"max_exit": 2}, 2, "exit_limit"),
        ({"threshold": 0, "min_exit": 2}, 2, "confident"),
        (EVERY_EXIT | {"energy_budget_mj": 1e-5}, 1, "energy"),
    ):
        asked = oip.request(by_hand.images[:1], parameters=parameters)
        said = oip.outputs(client.post(INFER, json=asked))
        assert (said["exit"], said["stop_reason"]) == ([exit], [reason])


def test_strict_refuses_before_any_work(client: httpx.Client, by_hand: ByHand) -> None:
    before = counters(client, "offramp_inferences_total")
    parameters = {"strict": True, "latency_budget_ms": 0.001}
    said = client.post(INFER, json=oip.request(by_hand.images[:1], parameters=parameters))
    refused(said, 503)
    assert int(said.headers["retry-after"]) >= 1
    assert counters(client, "offramp_inferences_total") == before


IMAGE = np.zeros((1, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    "members",
    [
        {"shape": [2, 8, 8, 1]},  # C12
        {"shape": [1, 8, 8, 2]},
        {"shape": [-1, 8, 8, 1]},  # C13
        {"shape": [1, -8, -8, 1]},
        {"shape": [2**62, 8, 8, 1]},
        {"shape": [2**70, 8, 8, 1]},
        {"shape": [2**32, 2**32, 1, 1]},
        {"shape": [1.0, 8, 8, 1]},
        {"shape": [True, 8, 8, 1]},
        {"shape": ["1", 8, 8, 1]},
        {"shape": [0, 8, 8, 1]},  # C29
        {"shape": [MAX_IMAGES + 1, 8, 8, 1]},
        {"shape": [1, 1, 8, 8]},
        {"shape": [8, 8, 1]},
        {"shape": [64]},
        {"shape": []},
        {"shape": [1] * 1000},
        {"shape": None},
        {"datatype": "FP32"},  # C14
        {"datatype": "INT8"},
        {"datatype": "uint8"},
        {"datatype": 8},
        {"name": "image"},  # C15
        {"name": None},
        {"data": []},  # C12
        {"data": [0] * 63},
        {"data": [0] * 65},
        {"data": [[0] * 32, [0] * 32]},
        {"data": [256] + [0] * 63},  # C26
        {"data": [-1] + [0] * 63},
        {"data": [0.5] + [0] * 63},
        {"data": [True] + [0] * 63},
        {"data": [None] + [0] * 63},
        {"data": ["0"] + [0] * 63},
        {"data": [2**70] + [0] * 63},
        {"data": "AAAA"},
        {"data": {"0": 0}},
        {"data": None},
        {"parameters": {"binary_data_size": 64}},  # C22
        {"parameters": {"binary_data_size": -1}},
        {"parameters": {"binary_data_size": "64"}},
        {"parameters": {"shared_memory_region": "input"}},
        {"parameters": []},
    ],
)
def test_bad_inputs(client: httpx.Client, members: dict[str, Any]) -> None:
    refused(client.post(INFER, json={"inputs": [oip.tensor(IMAGE, **members)]}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1e38", "0.0"])
def test_numbers_that_are_no_bytes(client: httpx.Client, number: str) -> None:  # C26
    body = json.dumps(oip.request(IMAGE)).replace("[0,", f"[{number},", 1)
    refused(client.post(INFER, content=body))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [oip.tensor(IMAGE)] * 2},  # C15
        {"inputs": [oip.tensor(IMAGE), oip.tensor(IMAGE, name="other")]},
        {"inputs": oip.tensor(IMAGE)},
        {"inputs": [None]},
        oip.request(IMAGE, id=3),
        oip.request(IMAGE, outputs=[{"name": "logits"}]),  # C16
        oip.request(IMAGE, outputs=[{"name": "exit"}] * 2),
        oip.request(IMAGE, outputs=[{}]),
        oip.request(IMAGE, outputs=["exit"]),
        oip.request(IMAGE, outputs=[{"name": "exit", "parameters": {"binary_data": "yes"}}]),
        oip.request(IMAGE, outputs=[{"name": "exit", "parameters": {"classification": 1}}]),
        *[
            oip.request(IMAGE, outputs=[{"name": "probabilities", "parameters": parameters}])
            for parameters in (
                {"classification": 0},
                {"classification": 11},
                {"classification": 1.5},
                {"classification": True},
                {"shared_memory_region": "output"},
            )
        ],
        [],
        None,
        "images",
    ],
)
def test_bad_requests(client: httpx.Client, body: object) -> None:
    refused(client.post(INFER, json=body))


@pytest.mark.parametrize(
    "parameters",
    [
        {"latency_budget_ms": "fast"},
        {"latency_budget_ms": "20"},
        {"latency_budget_ms": None, "energy_budget_mj": []},
        {"latency_budget_ms": [20]},
        {"latency_budget_ms": {"ms": 20}},
        {"latency_budget_ms": 0},
        {"latency_budget_ms": -1},
        {"latency_budget_ms": True},
        {"energy_budget_mj": -1},
        {"threshold": 1.5},
        {"threshold": 0.5, "operating_point": "fast"},
        {"operating_point": "fastest"},
        {"operating_point": 1},
        {"min_exit": 0},
        {"min_exit": 4},
        {"min_exit": 1.5},
        {"min_exit": 3, "max_exit": 2},
        {"max_exit": 4},
        {"strict": "yes"},
        {"timeout": -1},
        {"timeout": 1.5},
        {"timeout": "1"},
        {"timeout": 1000, "latency_budget_ms": 1},
        {"binary_data_output": "true"},
        {"latency_budget": 20},
        {"top_k": 2},
        {"model": "digits"},
        [],
        "fast",
    ],
)
def test_bad_parameters(client: httpx.Client, parameters: object) -> None:  # C27
    said = refused(client.post(INFER, json=oip.request(IMAGE, parameters=parameters)))
    if isinstance(parameters, dict):
        assert any(name in said for name in parameters), "the error names the parameter"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_budgets_that_are_no_numbers(client: httpx.Client, number: str) -> None:  # C27
    body = json.dumps(oip.request(IMAGE, parameters={"latency_budget_ms": 4711}))
    refused(client.post(INFER, content=body.replace("4711", number)))


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "", "0x10", "²", "99999", "9" * 20])
def test_bad_header_lengths(client: httpx.Client, length: str) -> None:  # C20
    body, _ = oip.binary(IMAGE)
    headers = {HEADER_LENGTH.encode(): length.encode()}
    refused(client.post(INFER, content=body, headers=headers))


def test_header_length_that_is_missing_or_wrong(client: httpx.Client) -> None:  # C20
    body, headers = oip.binary(IMAGE)
    refused(client.post(INFER, content=body))
    for off in (-1, 1, 64):
        length = str(int(headers[HEADER_LENGTH]) + off)
        refused(client.post(INFER, content=body, headers={HEADER_LENGTH: length}))


@pytest.mark.parametrize("extra", [-64, -1, 1, 64])
def test_short_and_surplus_binary_data(client: httpx.Client, extra: int) -> None:  # C21, C22
    body, headers = oip.binary(IMAGE)
    other = body[:extra] if extra < 0 else body + bytes(extra)
    refused(client.post(INFER, content=other, headers=headers))
    parameters = {"binary_data_size": 64 + extra}
    given = oip.tensor(IMAGE, parameters=parameters)
    del given["data"]
    head = json.dumps({"inputs": [given]}).encode()
    headers = {HEADER_LENGTH: str(len(head))}
    refused(client.post(INFER, content=head + bytes(64 + extra), headers=headers))
    refused(client.post(INFER, content=head + bytes(64), headers=headers))


def test_data_given_twice(client: httpx.Client) -> None:
    given = oip.tensor(IMAGE, parameters={"binary_data_size": 64})
    head = json.dumps({"inputs": [given]}).encode()
    headers = {HEADER_LENGTH: str(len(head))}
    refused(client.post(INFER, content=head + bytes(64), headers=headers))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"rubbish",
        b"\xff\xfe",
        b'{"id": "\\ud800"}',
        b"1" * 5000,
        b"[" * 120 + b"]" * 120,
        b"[" * 50_000,
        b'{"inputs":' * 120 + b"1" + b"}" * 120,
        json.dumps(oip.request(IMAGE)).encode().replace(b"[0,", b"[" * 120 + b"]" * 120 + b","),
        json.dumps(oip.request(IMAGE, id=4711)).encode().replace(b"4711", b"[" * 120 + b"]" * 120),
        json.dumps(oip.request(IMAGE)).encode() + b"{}",
    ],
)
def test_json_that_is_none_or_too_deep(client: httpx.Client, body: bytes) -> None:  # C37
    refused(client.post(INFER, content=body))


def test_members_that_are_not_ours_are_ignored(client: httpx.Client) -> None:
    asked = oip.request(IMAGE, model_name="digits", future={"a": [1]})
    assert client.post(INFER, json=asked).status_code == 200


@pytest.mark.parametrize("encoding", list(COMPRESS))
def test_compression_both_ways(client: httpx.Client, by_hand: ByHand, encoding: str) -> None:  # C28
    images = by_hand.images[:8]
    plain = client.post(
        INFER,
        json=oip.request(images, parameters=EVERY_EXIT),
        headers={"accept-encoding": "identity"},
    )
    assert "content-encoding" not in plain.headers
    body, headers = oip.binary(images, parameters=EVERY_EXIT)
    headers |= {"content-encoding": encoding, "accept-encoding": encoding}
    said = client.post(INFER, content=COMPRESS[encoding](body), headers=headers)
    assert said.headers["content-encoding"] == encoding
    assert said.headers["vary"] == "Accept-Encoding"
    assert oip.outputs(said) == oip.outputs(plain)


@pytest.mark.parametrize("encoding", list(COMPRESS))
def test_bad_compression(client: httpx.Client, encoding: str) -> None:  # C28
    headers = {"content-encoding": encoding}
    bomb = COMPRESS[encoding](bytes(20_000_000))
    assert len(bomb) < MAX_BODY_BYTES
    refused(client.post(INFER, content=bomb, headers=headers), 413)
    whole = COMPRESS[encoding](json.dumps(oip.request(IMAGE)).encode())
    for damaged in (b"", b"rubbish", whole[:-1], whole + b"x"):
        refused(client.post(INFER, content=damaged, headers=headers))


def test_unknown_encoding(client: httpx.Client) -> None:  # C28
    for encoding in ("br", "gzip, gzip", "rubbish"):
        headers = {"content-encoding": encoding}
        refused(client.post(INFER, content=b"{}", headers=headers), 415)


def test_body_too_large(client: httpx.Client) -> None:
    refused(client.post(INFER, content=b"0" * (MAX_BODY_BYTES + 1)), 413)
    chunks = (b"0" * 1000 for _ in range(MAX_BODY_BYTES // 1000 + 1))
    refused(client.post(INFER, content=chunks), 413)


def test_largest_batch_is_taken(client: httpx.Client, by_hand: ByHand) -> None:  # C29
    images = by_hand.images[:MAX_IMAGES]
    said = oip.outputs(client.post(INFER, json=oip.request(images)))
    assert len(said["exit"]) == MAX_IMAGES


def test_metrics_and_statistics_count_what_was_sent(
    client: httpx.Client, by_hand: ByHand
) -> None:  # C33
    path = "/v2/models/digits/versions/1"

    def count() -> dict[str, Any]:
        (stats,) = client.get(f"{path}/stats").json()["model_stats"]
        assert (stats["name"], stats["version"]) == ("digits", "1")
        success: dict[str, Any] = stats
        return success

    names = ("offramp_exits_total", "offramp_stops_total", "offramp_inferences_total")
    before, metrics = count(), {name: counters(client, name) for name in names}
    sent = {name: Counter[tuple[str, ...]]() for name in names}
    for rows in (1, 4, 7):
        asked = oip.request(by_hand.images[:rows], parameters=EVERY_EXIT | {"max_exit": 2})
        said = oip.outputs(client.post(f"{path}/infer", json=asked))
        for exit, reason in zip(said["exit"], said["stop_reason"], strict=True):
            sent["offramp_exits_total"][str(exit), "digits"] += 1
            sent["offramp_stops_total"]["digits", reason] += 1
            sent["offramp_inferences_total"]["digits", "answered"] += 1
    refused(client.post(f"{path}/infer", json={}))
    after = count()
    assert {name: counters(client, name) - metrics[name] for name in names} == sent
    assert after["inference_count"] - before["inference_count"] == 12
    assert after["inference_stats"]["success"]["count"] == (
        before["inference_stats"]["success"]["count"] + 3
    )
    assert after["inference_stats"]["fail"] == {"count": 0, "ns": 0}
    assert after["last_inference"] > 1_600_000_000_000
    runs = {b["batch_size"]: b["compute_infer"]["count"] for b in after["batch_stats"]}
    earlier = {b["batch_size"]: b["compute_infer"]["count"] for b in before["batch_stats"]}
    assert after["execution_count"] == sum(runs.values())
    rows_run = sum(size * (runs[size] - earlier.get(size, 0)) for size in runs)
    assert rows_run == 2 * 12, "every image ran through two segments"


def test_statistics_of_every_model(client: httpx.Client) -> None:
    listed = [("digits", "1"), ("digits", "2")]
    for path in ("/v2/models/stats", "/v2/models/digits/stats"):
        stats = client.get(path).json()["model_stats"]
        assert [(entry["name"], entry["version"]) for entry in stats] == listed


def test_routes_are_counted_by_their_templates(client: httpx.Client) -> None:
    client.get("/v2/models/digits/versions/1/ready")
    client.get("/v2/models/unheard-of/ready")
    routes = {route for _, route in counters(client, "offramp_requests_total")}
    assert "/v2/models/{name}/versions/{version}/ready" in routes
    assert not any("unheard" in route for route in routes)


def test_openapi_documents_the_protocol(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    paths = [path for path in document["paths"] if path.startswith("/v2")]
    assert len(paths) == 15
    for path in paths:
        for operation in document["paths"][path].values():
            assert set(operation["responses"]) == {"200", "4XX", "5XX"}
    infer = document["paths"]["/v2/models/{name}/infer"]["post"]
    for body in (infer["requestBody"], infer["responses"]["200"]):
        assert set(body["content"]) == {"application/json", "application/octet-stream"}
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(infer))):
        target = document
        for key in reference.split("/"):
            target = target[key]


@pytest.mark.parametrize("name", ["..%2f..", "%2e%2e", "..", "digits%2f1", "digits%00", "letters"])
@pytest.mark.parametrize("step", ["load", "unload"])
def test_models_outside_the_zoo(client: httpx.Client, name: str, step: str) -> None:  # C35
    refused(untidied(client, "POST", f"/v2/repository/models/{name}/{step}"), 404)
