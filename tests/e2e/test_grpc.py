"""Triton's own client over gRPC, unmodified, hears what it hears over REST."""

import asyncio
import queue
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.utils import InferenceServerException

from benchmarks.fuzz_grpc import fuzz
from benchmarks.process import ROOT, ServerProcess, free_port
from benchmarks.protocols import OUTPUTS, WISHES, compare
from models.bundle.bundle import Bundle
from tests.conftest import Serve
from tests.e2e.conftest import ByHand
from tests.server.live import samples

ROWS = 8
INFER = "/inference.GRPCInferenceService/ModelInfer"
Ask = Callable[..., Any]
Address = tuple[ServerProcess, str]


@pytest.fixture(scope="module")
def both(serve: Serve, digits_bundle: Bundle) -> Iterator[Address]:
    """A server, and its address for gRPC."""
    port = free_port()
    with serve(digits_bundle.path.parents[1], profile_s=0.5, grpc_port=port) as server:
        yield server, f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def client(both: Address) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(both[1]) as session:
        yield session


def ask_directly(address: str, **request: Any) -> Any:  # noqa: ANN401
    with triton.InferenceServerClient(address) as client:
        return client.infer("digits", **request)


def ask_in_the_background(address: str, **request: Any) -> Any:  # noqa: ANN401
    said: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        client.async_infer(
            "digits", callback=lambda result, error: said.put(error or result), **request
        )
        return said.get(timeout=30)


def ask_with_asyncio(address: str, **request: Any) -> Any:  # noqa: ANN401
    async def ask() -> Any:  # noqa: ANN401
        async with triton_aio.InferenceServerClient(address) as client:
            return await client.infer("digits", **request)

    return asyncio.run(ask())


def ask_in_a_stream(address: str, compression_algorithm: str | None, **request: Any) -> Any:  # noqa: ANN401
    return streamed(address, compression_algorithm, **request)[-1][0]


def streamed(
    address: str,
    compression: str | None,
    **request: Any,  # noqa: ANN401
) -> list[tuple[Any, Any]]:
    """Results and errors of a stream of one request, until its last."""
    said: queue.Queue[tuple[Any, Any]] = queue.Queue()
    found: list[tuple[Any, Any]] = []
    with triton.InferenceServerClient(address) as client:
        client.start_stream(
            lambda result, error: said.put((result, error)), compression_algorithm=compression
        )
        client.async_stream_infer("digits", **request)
        while not found or not is_last(*found[-1]):
            found.append(said.get(timeout=30))
        client.stop_stream()
    return found


def is_last(result: Any, error: Any) -> bool:  # noqa: ANN401
    return error is not None or parameter(result, "triton_final_response", "bool_param") is True


def parameter(result: Any, name: str, kind: str) -> object:  # noqa: ANN401
    value: object = getattr(result.get_response().parameters[name], kind)
    return value


def images(by_hand: ByHand) -> list[triton.InferInput]:
    batch = by_hand.images[:ROWS]
    tensor = triton.InferInput("images", list(batch.shape), "UINT8")
    tensor.set_data_from_numpy(batch)
    return [tensor]


@pytest.mark.parametrize(
    "ask", [ask_directly, ask_in_the_background, ask_with_asyncio, ask_in_a_stream]
)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_every_way_of_asking_gives_what_rest_gives(
    both: Address, by_hand: ByHand, ask: Ask, compression: str | None
) -> None:
    server, address = both
    tensor = {"name": "images", "datatype": "UINT8", "shape": [ROWS, 8, 8, 1]}
    body = {"inputs": [tensor | {"data": by_hand.images[:ROWS].ravel().tolist()}]}
    rest = httpx.post(f"{server.url}/v2/models/digits/infer", json=body).json()
    said = ask(
        address,
        inputs=images(by_hand),
        model_version="1",
        request_id="request 42",
        compression_algorithm=compression,
    )
    response = said.get_response()
    assert (response.id, response.model_version) == ("request 42", "1")
    assert parameter(said, "met", "bool_param") is True
    for output in rest["outputs"]:
        given = said.as_numpy(output["name"])
        if given.dtype == np.object_:
            assert [element.decode() for element in given] == output["data"]
        else:
            np.testing.assert_allclose(given.ravel(), output["data"], atol=1e-5)


def test_rest_and_grpc_answer_alike_within_every_budget(both: Address, by_hand: ByHand) -> None:
    server, address = both
    alike = compare(server.url.removeprefix("http://"), address, "digits", by_hand.images[:ROWS])
    assert alike == dict.fromkeys(WISHES, ROWS)


def test_a_stream_has_a_response_for_each_exit(both: Address, by_hand: ByHand) -> None:
    said = [
        result
        for result, _ in streamed(
            both[1], None, inputs=images(by_hand), parameters={"threshold": 1.0}
        )
    ]
    *partial, final = said
    assert len(partial) == 3 * ROWS
    for result in partial:
        row, exit = (int(str(parameter(result, name, "int64_param"))) for name in ("row", "exit"))
        expected = by_hand.probabilities[exit - 1][row]
        np.testing.assert_allclose(result.as_numpy("probabilities"), [expected], atol=1e-5)
        assert result.as_numpy("exit") == [exit]
        assert result.as_numpy("stop_reason") is None, "it has none yet"
    assert final.as_numpy("exit").tolist() == [3] * ROWS


def test_an_error_in_a_stream_ends_its_request_alone(both: Address, by_hand: ByHand) -> None:
    said: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(both[1]) as client:
        client.start_stream(lambda result, error: said.put((result, error)))
        client.async_stream_infer("letters", images(by_hand))
        client.async_stream_infer("digits", images(by_hand), parameters={"max_exit": 1})
        _, error = said.get(timeout=30)
        assert "'letters' is none of digits" in str(error)
        while not is_last(*(entry := said.get(timeout=30))):
            assert entry[1] is None
        client.stop_stream()


def test_the_deadline_of_a_call_is_a_budget(
    client: triton.InferenceServerClient, both: Address, by_hand: ByHand
) -> None:
    before = samples(both[0].url)
    said = client.infer("digits", images(by_hand), client_timeout=60, parameters={"threshold": 1.0})
    assert said.as_numpy("exit").tolist() == [3] * ROWS
    slack = 'offramp_budget_slack_seconds_count{model="digits"}'
    deadline = time.monotonic() + 30
    while samples(both[0].url)[slack] != before[slack] + ROWS:
        assert time.monotonic() < deadline


def test_typed_contents_are_understood(both: Address, by_hand: ByHand) -> None:
    request = triton.service_pb2.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="images", datatype="UINT8", shape=[2, 8, 8, 1])
    tensor.contents.uint_contents.extend(by_hand.images[:2].ravel().tolist())
    with grpc.insecure_channel(both[1]) as channel:
        infer = channel.unary_unary(
            INFER,
            triton.service_pb2.ModelInferRequest.SerializeToString,
            triton.service_pb2.ModelInferResponse.FromString,
        )
        said, call = infer.with_call(request, metadata=(("x-request-id", "mine"),))
        trailing = dict(call.trailing_metadata())
        del tensor.contents.uint_contents[0]
        with pytest.raises(grpc.RpcError, match="127 elements"):
            infer(request)
        request.raw_input_contents.append(by_hand.images[:2].tobytes())
        with pytest.raises(grpc.RpcError, match="cannot be given beside an input's contents"):
            infer(request)
    assert [output.name for output in said.outputs] == [*OUTPUTS]
    assert trailing["x-request-id"] == "mine"
    assert "segment_1;dur=" in trailing["server-timing"]


def test_probes_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    assert not client.is_model_ready("letters")
    assert client.get_server_metadata().name == "offramp"
    assert list(client.get_model_metadata("digits").inputs[0].shape) == [-1, 8, 8, 1]
    config = client.get_model_config("digits").config
    assert (list(config.input[0].dims), config.max_batch_size) == ([8, 8, 1], 64)
    (entry,) = client.get_model_repository_index().models
    assert (entry.name, entry.version, entry.state) == ("digits", "1", "READY")
    (stats,) = client.get_inference_statistics("digits").model_stats
    assert stats.inference_stats.fail.count == 0
    assert stats.inference_count > 0


def test_health_and_load_and_unload(
    client: triton.InferenceServerClient, both: Address, by_hand: ByHand
) -> None:
    with grpc.insecure_channel(both[1]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
        watched = health.Watch(asked, timeout=60)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        client.unload_model("digits")
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException, match="unloaded") as failure:
            client.infer("digits", images(by_hand))
        assert failure.value.status() == "StatusCode.UNAVAILABLE"
        client.load_model("digits")
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()
    with pytest.raises(InferenceServerException, match="config"):
        client.load_model("digits", config="{}")


def test_reflection_tells_the_services(both: Address) -> None:
    with grpc.insecure_channel(both[1]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services
    assert len(file.service[0].method) == 12


def test_errors_and_their_counts(
    client: triton.InferenceServerClient, both: Address, by_hand: ByHand
) -> None:
    failed = f'offramp_requests_total{{code="400",route="{INFER}"}}'
    before = samples(both[0].url).get(failed, 0)
    for parameters in ({"latency_budget_ms": -1.0}, {"latency_budge_ms": 1.0}):
        with pytest.raises(InferenceServerException) as failure:
            client.infer("digits", images(by_hand), parameters=parameters)
        assert next(iter(parameters)) in failure.value.message()
        assert failure.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert samples(both[0].url)[failed] == before + 2


def test_random_messages_are_never_the_servers_fault(both: Address, digits_bundle: Bundle) -> None:
    codes = fuzz(both[1], digits_bundle.manifest, num_cases=360)
    assert codes.total() == 360
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= codes.keys()


def test_the_example_of_the_docs(both: Address, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/open-inference-protocol.md").read_text()
    _, code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    digits = code.replace("127.0.0.1:8001", both[1]).replace("cifar100-msdnet", "digits")
    exec(digits.replace("(1, 32, 32, 3)", "(1, 8, 8, 1)"), {})
    assert "final" in capsys.readouterr().out


def test_every_process_listens_and_answers(serve: Serve, digits_bundle: Bundle) -> None:
    port, zoo = free_port(), digits_bundle.path.parents[1]
    with serve(zoo, profile_s=0.2, processes=2, grpc_port=port) as server:
        for _ in range(8):
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
                assert client.is_model_ready("digits")
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        client.unload_model("digits")
        ready = httpx.get(f"{server.url}/readyz").status_code
        client.close()
        tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
        lines = [line for table in tables for line in table.splitlines()[1:]]
        listening = [line for line in lines if line.split()[3] == "0A"]
        assert sum(line.split()[1].endswith(f":{port:04X}") for line in listening) == 2
        assert ready == 503, "in all"
