"""The port of gRPC: every address of the host, and nobody else's."""

import socket
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.process import free_port
from server.engine.model import ServedModel
from server.grpc import open_inference_pb2 as pb
from server.grpc import watches
from server.grpc.methods import route_of
from server.http.ports import reserved, shared
from server.settings import SettingsError
from tests.server.http.test_departure import check_answers
from tests.server.live import live, until


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("127.0.0.1", ["127.0.0.1"]), ("[::1]", ["[::1]"]), ("::", ["127.0.0.1", "[::1]"])],
)
def test_every_address_of_the_host_answers(
    model: ServedModel, host: str, addresses: list[str]
) -> None:
    if ":" in host and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    port = free_port()
    with live(model, host=host, grpc_port=port):
        for address in addresses:
            with grpc.insecure_channel(f"{address}:{port}") as channel:
                ask: Any = channel.unary_unary(route_of("ServerReady"))
                said = ask(b"", timeout=30)
            assert pb.ServerReadyResponse.FromString(said).ready


def test_a_port_is_shared_within_a_server_alone() -> None:
    port = free_port()
    kept = reserved("127.0.0.1", port)
    with kept[0], shared("127.0.0.1", port)[0] as member:
        member.listen()
        with pytest.raises(SettingsError, match=f"port {port}"):
            reserved("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(SettingsError):
        reserved("127.0.0.1", port)


def test_limits_may_be_larger_than_grpc_can_say(model: ServedModel) -> None:
    names = ("max_body_bytes", "max_held_bytes", "max_connections", "keep_alive_s")
    port = free_port()
    with live(model, grpc_port=port, **dict.fromkeys(names, 2**31)) as url:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask: Any = channel.unary_unary(route_of("ServerReady"))
            assert pb.ServerReadyResponse.FromString(ask(b"", timeout=30)).ready
        check_answers(url)


def test_idle_watches_leave_room_for_calls(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "MAX_WATCHES", 3)
    port, idle = free_port(), threading.Event()

    def never() -> Iterator[bytes]:
        idle.wait(30)
        yield b""

    with (
        live(model, grpc_port=port, max_connections=3) as url,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        reflect: Any = channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        open_ones = [watch(b"") for _ in range(2)]
        assert [next(stream) for stream in open_ones] == [b"\x08\x01"] * 2
        open_ones.append(reflect(chain((b"\x3a\x01*",), never())))
        assert b"GRPCInferenceService" in next(open_ones[2])
        for stream in (watch(b""), reflect(never())):
            with pytest.raises(grpc.RpcError, match="3 watches are open"):
                next(stream)
        ask: Any = channel.unary_unary(route_of("ServerReady"))
        for _ in range(3):
            assert pb.ServerReadyResponse.FromString(ask(b"", timeout=30)).ready
        open_ones[0].cancel()
        until(lambda: is_open(watch(b"")))
        idle.set()
        check_answers(url)


def is_open(stream: Any) -> bool:  # noqa: ANN401
    try:
        return bool(next(stream) == b"\x08\x01")
    except grpc.RpcError:
        return False
