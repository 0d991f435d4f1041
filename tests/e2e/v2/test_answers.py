"""The Open Inference Protocol on a real server: answers."""

import json

import httpx
import numpy as np
import pytest

from models.bundle.bundle import Bundle
from models.bundle.policy import policy_at
from server.v2.infer import HEADER_LENGTH
from tests.e2e import v2
from tests.e2e.conftest import ByHand
from tests.e2e.test_serving import counters
from tests.e2e.v2.conftest import EVERY_EXIT, IMAGE, INFER, MAX_IMAGES, NAMES, refused
from training.evaluation.replay import walk


@pytest.mark.parametrize("point", ["fast", "balanced", "accurate"])
def test_rows_stop_independently_where_the_stop_rule_says(
    client: httpx.Client, by_hand: ByHand, digits_bundle: Bundle, point: str
) -> None:
    policy = policy_at(digits_bundle.calibration.operating_points[point])
    images = by_hand.images[:MAX_IMAGES]
    asked = v2.request(images, parameters={"operating_point": point})
    said = v2.outputs(client.post(INFER, json=asked))
    for row in range(len(images)):
        ran, reason = walk(policy, by_hand.confidences[row])
        assert (said["exit"][row], said["stop_reason"][row]) == (ran[-1], reason)
        expected = by_hand.probabilities[ran[-1] - 1][row]
        np.testing.assert_allclose(said["probabilities"][row], expected, atol=1e-5)
        assert said["label"][row] == str(expected.argmax())
        assert said["confidence"][row] == pytest.approx(by_hand.confidences[row][ran[-1] - 1])


@pytest.mark.parametrize("id", ["42", "", 'a "quoted"\n\\id', "ünï-✓-\U0001f600", "x" * 1000])
def test_id_comes_back(client: httpx.Client, by_hand: ByHand, id: str) -> None:  # C10
    said = client.post(INFER, json=v2.request(by_hand.images[:1], id=id))
    assert said.json()["id"] == id


def test_id_may_be_absent(client: httpx.Client, by_hand: ByHand) -> None:  # C10
    assert "id" not in client.post(INFER, json=v2.request(by_hand.images[:1])).json()


def test_every_form_says_the_same(client: httpx.Client, by_hand: ByHand) -> None:  # C11, C19
    images = by_hand.images[:5]
    flat = v2.request(images, parameters=EVERY_EXIT)
    nested = {"inputs": [v2.tensor(images, data=images.tolist())], "parameters": EVERY_EXIT}
    expected = v2.outputs(client.post(INFER, json=flat))
    assert v2.outputs(client.post(INFER, json=nested)) == expected
    binary_output = {"parameters": EVERY_EXIT | {"binary_data_output": True}}
    assert v2.outputs(client.post(INFER, json=flat | binary_output)) == expected
    body, headers = v2.binary(images, parameters=EVERY_EXIT)
    assert v2.outputs(client.post(INFER, content=body, headers=headers)) == expected
    body, headers = v2.binary(images, **binary_output)
    assert v2.outputs(client.post(INFER, content=body, headers=headers)) == expected
    np.testing.assert_allclose(expected["probabilities"], by_hand.probabilities[2][:5], atol=1e-5)


def test_versioned_path_gives_that_version(client: httpx.Client, by_hand: ByHand) -> None:  # C6
    asked = v2.request(by_hand.images[:1])
    for path, version in ((INFER, "2"), ("/v2/models/digits/versions/1/infer", "1")):
        said = client.post(path, json=asked).json()
        assert (said["model_name"], said["model_version"]) == ("digits", version)
    asked = v2.request(by_hand.images[:4], parameters=EVERY_EXIT)
    default, versioned = (
        v2.outputs(client.post(path, json=asked))
        for path in (INFER, "/v2/models/digits/versions/2/infer")
    )
    assert versioned == default


def test_raw_binary_request(client: httpx.Client, by_hand: ByHand) -> None:  # C23
    for row in range(3):
        image = by_hand.images[row : row + 1]
        said = client.post(INFER, content=image.tobytes(), headers={HEADER_LENGTH: "0"})
        assert said.headers[HEADER_LENGTH].isdigit()
        head = json.loads(said.content[: int(said.headers[HEADER_LENGTH])])
        assert all("binary_data_size" in output["parameters"] for output in head["outputs"])
        assert v2.outputs(said) == v2.outputs(client.post(INFER, json=v2.request(image)))
    for content in (b"", b"x" * 63, b"x" * 65, b"x" * 128):
        refused(client.post(INFER, content=content, headers={HEADER_LENGTH: "0"}))


def test_only_the_outputs_asked_for_in_their_order(
    client: httpx.Client, by_hand: ByHand
) -> None:  # C17, C18
    asked = [{"name": "exit"}, {"name": "label", "parameters": {"binary_data": True}}]
    said = client.post(INFER, json=v2.request(by_hand.images[:2], outputs=asked))
    assert list(v2.outputs(said)) == ["exit", "label"]
    for asked_of_all in (v2.request(IMAGE), v2.request(IMAGE, outputs=[])):
        assert list(v2.outputs(client.post(INFER, json=asked_of_all))) == NAMES


def test_an_output_overrides_the_request(client: httpx.Client, by_hand: ByHand) -> None:
    outputs = [{"name": "exit", "parameters": {"binary_data": False}}, {"name": "confidence"}]
    parameters = {"binary_data_output": True}
    body = v2.request(by_hand.images[:1], outputs=outputs, parameters=parameters)
    said = client.post(INFER, json=body)
    head = json.loads(said.content[: int(said.headers[HEADER_LENGTH])])
    assert ["data" in output for output in head["outputs"]] == [True, False]


def test_classification(client: httpx.Client, by_hand: ByHand) -> None:
    images = by_hand.images[:4]
    best = [{"name": "probabilities", "parameters": {"classification": 3}}]
    said = client.post(INFER, json=v2.request(images, outputs=best, parameters=EVERY_EXIT))
    (output,) = said.json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [4, 3])
    for row, texts in enumerate(v2.outputs(said)["probabilities"]):
        values, indices, labels = zip(*(text.split(":") for text in texts), strict=True)
        expected = by_hand.probabilities[2][row]
        ranked = np.argsort(-expected, kind="stable")[:3]
        assert [int(index) for index in indices] == ranked.tolist()
        assert labels == indices, "digits are labelled by themselves"
        np.testing.assert_allclose([float(v) for v in values], expected[ranked], atol=2e-6)


def test_response_says_what_was_spent(client: httpx.Client, by_hand: ByHand) -> None:  # C36
    for budget_ms, met in ((60_000, True), (0.001, False)):
        parameters = EVERY_EXIT | {"latency_budget_ms": budget_ms}
        said = client.post(INFER, json=v2.request(by_hand.images[:2], parameters=parameters))
        spent = said.json()["parameters"]
        assert set(spent) == {"total_ms", "energy_mj", "energy_source", "met"}
        assert spent["met"] is met
        assert spent["energy_mj"] > 0
        reasons = v2.outputs(said)["stop_reason"]
        assert reasons == (["final"] * 2 if met else ["deadline"] * 2)
        assert said.headers["server-timing"].startswith("decode;dur=")


def test_timeout_is_a_latency_budget(client: httpx.Client, by_hand: ByHand) -> None:
    for timeout, exit in ((1, 1), (60_000_000, 3), (0, 3)):
        parameters = EVERY_EXIT | {"timeout": timeout, "priority": 3}
        asked = v2.request(by_hand.images[:1], parameters=parameters)
        assert v2.outputs(client.post(INFER, json=asked))["exit"] == [exit]


def test_null_is_no_budget(client: httpx.Client) -> None:  # C27
    for name in ("latency_budget_ms", "energy_budget_mj", "operating_point", "max_exit"):
        asked = v2.request(IMAGE, parameters=EVERY_EXIT | {name: None})
        said = v2.outputs(client.post(INFER, json=asked))
        assert (said["exit"], said["stop_reason"]) == ([3], ["final"])


def test_exits_and_energy_are_bounded(client: httpx.Client, by_hand: ByHand) -> None:
    for parameters, exit, reason in (
        (EVERY_EXIT | {"max_exit": 2}, 2, "exit_limit"),
        ({"threshold": 0, "min_exit": 2}, 2, "confident"),
        (EVERY_EXIT | {"energy_budget_mj": 1e-5}, 1, "energy"),
    ):
        asked = v2.request(by_hand.images[:1], parameters=parameters)
        said = v2.outputs(client.post(INFER, json=asked))
        assert (said["exit"], said["stop_reason"]) == ([exit], [reason])


def test_strict_refuses_before_any_work(client: httpx.Client, by_hand: ByHand) -> None:
    before = counters(client, "offramp_inferences_total")
    parameters = {"strict": True, "latency_budget_ms": 0.001}
    said = client.post(INFER, json=v2.request(by_hand.images[:1], parameters=parameters))
    refused(said, 503)
    assert int(said.headers["retry-after"]) >= 1
    assert counters(client, "offramp_inferences_total") == before
