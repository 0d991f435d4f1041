"""Calls over gRPC in this process: keys, limits, clients that go away, and the end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import grpc
import numpy as np
import pytest

from benchmarks.process import free_port
from models.bundle.bundle import Bundle
from server.engine.model import ServedModel
from server.errors import ClientGone
from server.grpc import open_inference_pb2 as pb
from server.grpc.calls import Front
from server.grpc.methods import METHODS, STREAM, route_of
from tests.server.http.test_departure import ENDINGS, check_answers, ended, gated, gone, left
from tests.server.live import listening, live, samples, until

ASKING, MANAGING = "a-key-to-ask", "a-key-to-manage"
INFER, STREAMED = route_of("ModelInfer"), route_of(STREAM)
OPEN = {"ServerLive", "ServerReady", "ServerMetadata"}
MANAGED = {"RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"}
LIMIT_S = 30.0


def message(**parameters: Any) -> bytes:  # noqa: ANN401
    """A request of one image."""
    image = np.zeros((1, 8, 8, 1), np.uint8)
    request = pb.ModelInferRequest(
        model_name="digits",
        inputs=[{"name": "images", "datatype": "UINT8", "shape": image.shape}],
        raw_input_contents=[image.tobytes()],
    )
    for name, value in parameters.items():
        request.parameters[name].CopyFrom(pb.InferParameter(double_param=value))
    return request.SerializeToString()


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


@contextmanager
def channel_to(model: ServedModel, **settings: object) -> Iterator[tuple[str, Any]]:
    """A server of one model: its URL, and a channel to it."""
    port = free_port()
    with (
        live(model, grpc_port=port, **settings) as url,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield url, channel


def code_of(call: Any, *arguments: Any, **options: Any) -> grpc.StatusCode:  # noqa: ANN401
    try:
        call(*arguments, timeout=LIMIT_S, **options)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("key", "asks", "manages"),
    [
        (None, "UNAUTHENTICATED", "UNAUTHENTICATED"),
        (ASKING, "OK", "UNAUTHENTICATED"),
        (MANAGING, "UNAUTHENTICATED", "OK"),
    ],
)
def test_keys(model: ServedModel, key: str | None, asks: str, manages: str) -> None:
    keys = {"api_key_hashes": hashed(ASKING), "management_key_hashes": hashed(MANAGING)}
    metadata = () if key is None else (("authorization", f"Bearer {key}"),)
    asked = pb.ModelReadyRequest(name="digits").SerializeToString()
    zoo = model.bundle.path.parents[1]
    with channel_to(model, zoo=zoo, **keys) as (_, channel):
        for name in METHODS:
            expected = "OK" if name in OPEN else manages if name in MANAGED else asks
            content = message() if name == "ModelInfer" else b"" if name in MANAGED else asked
            code = code_of(channel.unary_unary(route_of(name)), content, metadata=metadata)
            if code is grpc.StatusCode.NOT_FOUND:
                assert name in MANAGED, "it names no model"
                code = grpc.StatusCode.OK
            assert code.name == expected, name
        stream = channel.stream_stream(STREAMED)
        code = code_of(lambda *a, **b: list(stream(*a, **b)), iter([message()]), metadata=metadata)
        assert code.name == asks


def test_two_keys_are_none(model: ServedModel) -> None:
    """As over HTTP, whichever comes last."""
    wrong, right = (("authorization", f"Bearer {key}") for key in (MANAGING, ASKING))
    with channel_to(model, api_key_hashes=hashed(ASKING)) as (_, channel):
        infer = channel.unary_unary(INFER)
        for keys in ((wrong, right), (right, wrong)):
            assert code_of(infer, message(), metadata=keys) is grpc.StatusCode.UNAUTHENTICATED
        assert code_of(infer, message(), metadata=(right,)) is grpc.StatusCode.OK


def test_a_stream_without_a_key_ends_before_its_first_message(model: ServedModel) -> None:
    with channel_to(model, api_key_hashes=hashed(ASKING)) as (url, channel):
        waiting = threading.Event()

        def never() -> Iterator[bytes]:
            waiting.wait(LIMIT_S)
            yield b""

        stream = channel.stream_stream(STREAMED)(never(), timeout=LIMIT_S / 2)
        with pytest.raises(grpc.RpcError, match="a key of this server is needed"):
            next(stream)
        waiting.set()
        assert stream.code() is grpc.StatusCode.UNAUTHENTICATED
        assert samples(url)[f'offramp_requests_total{{code="401",route="{STREAMED}"}}'] == 1


def test_limits(model: ServedModel) -> None:
    limits = {"max_body_bytes": 1000, "receive_timeout_s": 0.2, "max_images": 1}
    with channel_to(model, **limits) as (_, channel):
        infer = channel.unary_unary(INFER)
        for compression in (None, grpc.Compression.Gzip):
            code = code_of(infer, bytes(100_000), compression=compression)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting = threading.Event()

        def never() -> Iterator[bytes]:
            waiting.wait(LIMIT_S)
            yield b""

        late = code_of(channel.stream_unary(INFER), never())
        waiting.set()
        assert late is grpc.StatusCode.DEADLINE_EXCEEDED
        assert code_of(channel.stream_unary(INFER), iter(())) is grpc.StatusCode.INVALID_ARGUMENT
        assert code_of(infer, message()) is grpc.StatusCode.OK


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_request_is_decoded_once(model: ServedModel, is_stream: bool) -> None:
    with channel_to(model) as (url, channel):
        if is_stream:
            assert len(list(channel.stream_stream(STREAMED)(iter([message()])))) > 1
        else:
            assert code_of(channel.unary_unary(INFER), message()) is grpc.StatusCode.OK
        assert samples(url)["offramp_decode_duration_seconds_count"] == 1


def test_a_refusal_says_when_to_come_again(model: ServedModel) -> None:
    with channel_to(model, max_body_bytes=1000, max_held_bytes=1000, max_requests=1) as (
        _,
        channel,
    ):
        strict = message(latency_budget_ms=1e-6)
        request = pb.ModelInferRequest.FromString(strict)
        request.parameters["strict"].bool_param = True
        with pytest.raises(grpc.RpcError, match="exit 1 needs") as failure:
            channel.unary_unary(INFER)(request.SerializeToString())
    error: Any = failure.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    trailing = {entry.key: entry.value for entry in error.trailing_metadata()}
    assert 1000 <= int(trailing["grpc-retry-pushback-ms"]) <= 3000


@pytest.mark.parametrize("route", [INFER, STREAMED])
def test_a_cancelled_call_frees_its_slot(digits_bundle: Bundle, route: str) -> None:
    model, runner = gated(digits_bundle, exit=2)
    with channel_to(model, workers=1) as (url, channel):
        if route == INFER:
            call: Any = channel.unary_unary(route).future(message(threshold=1))
        else:
            call = channel.stream_stream(route)(iter([message(threshold=1)]))
        until(lambda: runner.num_waiting == 1)
        call.cancel()
        until(lambda: samples(url)[gone("segment")] == 1)
        runner.gate.set()
        until(lambda: samples(url)["offramp_in_flight"] == 0)
        said = samples(url)
        assert [said[ended(e)] for e in ENDINGS] == [0, 0, 1]
        assert said[left(route)] == 1
        check_answers(url)


def test_a_deadline_that_passes_frees_the_slot(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=1)
    with channel_to(model, workers=1) as (url, channel):
        with pytest.raises(grpc.RpcError, match="Deadline Exceeded"):
            channel.unary_unary(INFER)(message(), timeout=0.3)
        until(lambda: samples(url)[ended("cancelled")] == 1)
        runner.gate.set()
        check_answers(url)


def test_an_idle_stream_ends_as_idle_connections_do(model: ServedModel) -> None:
    waiting = threading.Event()

    def requests() -> Iterator[bytes]:
        yield message()
        waiting.wait(LIMIT_S)

    with channel_to(model, keep_alive_s=1) as (url, channel):
        stream = channel.stream_stream(STREAMED)(requests(), timeout=LIMIT_S)
        said = [pb.ModelStreamInferResponse.FromString(next(stream)).error_message]
        with pytest.raises(grpc.RpcError, match="no message came for 1 s"):
            said += [pb.ModelStreamInferResponse.FromString(each).error_message for each in stream]
        waiting.set()
        assert stream.code() is grpc.StatusCode.UNAVAILABLE
        assert set(said) == {""}
        check_answers(url)
        assert samples(url)[f'offramp_requests_total{{code="200",route="{STREAMED}"}}'] == 1


def test_a_client_that_leaves_an_error_unread_is_gone_as_any_other(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def give_up(*_: object) -> None:
        raise ClientGone

    monkeypatch.setattr(Front, "send", give_up)
    with channel_to(model) as (url, channel):
        stream = channel.stream_stream(STREAMED)(iter([b"no message"]), timeout=LIMIT_S)
        with pytest.raises(grpc.RpcError, match="the responses were left unread"):
            next(stream)
        assert stream.code() is grpc.StatusCode.ABORTED
        assert samples(url)[f'offramp_requests_total{{code="400",route="{STREAMED}"}}'] == 1


def test_what_was_admitted_is_answered_at_the_end_and_idle_streams_end(
    digits_bundle: Bundle,
) -> None:
    model, runner = gated(digits_bundle, exit=2)
    port, idle = free_port(), threading.Event()

    def requests() -> Iterator[bytes]:
        yield message()
        idle.wait(LIMIT_S)

    with (
        listening(model, grpc_port=port, workers=1, shutdown_grace_s=20) as (server, _),
        grpc.insecure_channel(f"127.0.0.1:{port}") as opened,
    ):
        channel: Any = opened
        stream = channel.stream_stream(STREAMED)(requests())
        runner.gate.set()
        assert pb.ModelStreamInferResponse.FromString(next(stream)).error_message == ""
        runner.gate.clear()
        running = channel.unary_unary(INFER).future(message(threshold=1))
        until(lambda: runner.num_waiting >= 1)
        server.should_exit = True
        with pytest.raises(grpc.RpcError, match="the server is ending"):
            list(stream)
        idle.set()
        runner.gate.set()
        said = pb.ModelInferResponse.FromString(running.result(LIMIT_S))
        assert said.model_name == "digits"
