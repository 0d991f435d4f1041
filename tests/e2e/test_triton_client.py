"""Triton's own client, unmodified, hears what the segments say when run by hand."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from benchmarks.process import ROOT, ServerProcess
from models.bundle.bundle import Bundle
from models.bundle.policy import policy_at
from tests.conftest import Serve
from tests.e2e.conftest import ByHand
from training.evaluation.replay import walk

OUTPUTS = ["probabilities", "label", "exit", "confidence", "stop_reason"]
ROWS = 16
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def address(serve: Serve, digits_bundle: Bundle) -> Iterator[str]:
    server: ServerProcess
    with serve(digits_bundle.path.parents[1], profile_s=0.5) as server:
        yield server.url.removeprefix("http://")


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as session:
        yield session


def ask_directly(address: str, **request: Any) -> Any:  # noqa: ANN401
    with triton.InferenceServerClient(address) as client:
        return client.infer("digits", **request)


def ask_in_the_background(address: str, **request: Any) -> Any:  # noqa: ANN401
    with triton.InferenceServerClient(address) as client:
        return client.async_infer("digits", **request).get_result()


def ask_with_asyncio(address: str, **request: Any) -> Any:  # noqa: ANN401
    async def ask() -> Any:  # noqa: ANN401
        async with triton_aio.InferenceServerClient(address) as client:
            return await client.infer("digits", **request)

    return asyncio.run(ask())


def images(by_hand: ByHand, *, binary: bool) -> list[triton.InferInput]:
    batch = by_hand.images[:ROWS]
    tensor = triton.InferInput("images", list(batch.shape), "UINT8")
    tensor.set_data_from_numpy(batch, binary_data=binary)
    return [tensor]


def wanted(*, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]


@pytest.mark.parametrize("ask", [ask_directly, ask_in_the_background, ask_with_asyncio])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("outputs", [None, wanted(binary=True), wanted(binary=False)])
@pytest.mark.parametrize("binary", [True, False])
def test_every_way_of_asking_gives_what_the_segments_say(  # C19, C28, C30
    address: str,
    by_hand: ByHand,
    digits_bundle: Bundle,
    ask: Ask,
    compression: str | None,
    outputs: list[triton.InferRequestedOutput] | None,
    binary: bool,
) -> None:
    said = ask(
        address,
        inputs=images(by_hand, binary=binary),
        outputs=outputs,
        model_version="1",
        request_id="request 42",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    response = said.get_response()
    assert (response["id"], response["model_version"]) == ("request 42", "1")
    rows = {name: said.as_numpy(name) for name in OUTPUTS}
    policy = policy_at(digits_bundle.calibration.operating_points["balanced"])
    for row in range(ROWS):
        ran, reason = walk(policy, by_hand.confidences[row])
        expected = by_hand.probabilities[ran[-1] - 1][row]
        assert rows["exit"][row] == ran[-1]
        assert text(rows["stop_reason"][row]) == reason
        assert text(rows["label"][row]) == str(expected.argmax())
        np.testing.assert_allclose(rows["probabilities"][row], expected, atol=1e-5)
        assert rows["confidence"][row] == pytest.approx(by_hand.confidences[row][ran[-1] - 1])


def text(element: bytes | str) -> str:
    """BYTES are bytes where they came as such, text where they came in JSON."""
    return element.decode() if isinstance(element, bytes) else str(element)


def test_one_row_at_a_time_is_exactly_a_direct_run(
    client: triton.InferenceServerClient, by_hand: ByHand, digits_bundle: Bundle
) -> None:
    """Without a batch there is no rounding to allow for."""
    said = [infer(client, by_hand.images[row : row + 1], threshold=1.0) for row in range(8)]
    again = [infer(client, by_hand.images[row : row + 1], max_exit=3) for row in range(8)]
    for row, result in enumerate(said):
        probabilities: NDArray[np.float32] = result.as_numpy("probabilities")[0]
        np.testing.assert_allclose(probabilities, by_hand.probabilities[2][row], atol=1e-6)
        if again[row].as_numpy("exit")[0] == 3:
            np.testing.assert_array_equal(again[row].as_numpy("probabilities")[0], probabilities)


def infer(
    client: triton.InferenceServerClient, batch: NDArray[np.uint8], **parameters: object
) -> triton.InferResult:
    tensor = triton.InferInput("images", list(batch.shape), "UINT8")
    tensor.set_data_from_numpy(batch)
    return client.infer("digits", [tensor], parameters=parameters)


def test_timeout_buys_depth(client: triton.InferenceServerClient, by_hand: ByHand) -> None:
    exits = []
    for timeout in (1, 60_000_000):
        inputs = images(by_hand, binary=True)
        parameters = {"threshold": 1.0}
        said = client.infer("digits", inputs, timeout=timeout, parameters=parameters)
        exits.append(said.as_numpy("exit").tolist())
    assert exits == [[1] * ROWS, [3] * ROWS]


def test_classes(client: triton.InferenceServerClient, by_hand: ByHand) -> None:
    outputs = [triton.InferRequestedOutput("probabilities", class_count=2)]
    said = client.infer("digits", images(by_hand, binary=True), outputs=outputs)
    best = said.as_numpy("probabilities")
    assert best.shape == (ROWS, 2)
    probability, index, label = text(best[0][0]).split(":")
    assert index == label
    assert 0 < float(probability) <= 1


def test_probes_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    assert not client.is_model_ready("letters")
    assert client.get_server_metadata()["name"] == "offramp"
    assert client.get_model_metadata("digits")["inputs"][0]["shape"] == [-1, 8, 8, 1]
    assert client.get_model_config("digits")["input"][0]["dims"] == [8, 8, 1]
    (entry,) = client.get_model_repository_index()
    assert entry == {"name": "digits", "version": "1", "state": "READY", "reason": ""}
    (stats,) = client.get_inference_statistics("digits")["model_stats"]
    assert stats["inference_stats"]["fail"]["count"] == 0


def test_load_and_unload(client: triton.InferenceServerClient, by_hand: ByHand) -> None:
    client.unload_model("digits")
    client.unload_model("digits")
    assert not client.is_model_ready("digits")
    assert client.is_server_live()
    assert not client.is_server_ready(), "it has no model"
    with pytest.raises(InferenceServerException, match="unloaded"):
        infer(client, by_hand.images[:1])
    client.load_model("digits")
    client.load_model("digits")
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert infer(client, by_hand.images[:1]).as_numpy("exit").shape == (1,)


def test_the_example_of_the_docs(shipped: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/open-inference-protocol.md").read_text()
    code, _ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(code.replace("127.0.0.1:8000", shipped.removeprefix("http://")), {})
    assert capsys.readouterr().out.count("b'") == 6, "three labels and three reasons"


def test_errors_are_understood(client: triton.InferenceServerClient, by_hand: ByHand) -> None:
    with pytest.raises(InferenceServerException) as failure:
        infer(client, by_hand.images[:1], latency_budget_ms=-1)
    assert "latency_budget_ms" in failure.value.message()
    assert failure.value.status() == "400"
    for files in (None, {"file:1/model.onnx": b"x"}):
        with pytest.raises(InferenceServerException, match="config"):
            client.load_model("digits", config="{}", files=files)
