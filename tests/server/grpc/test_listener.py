"""The port of gRPC: every address of the host, and nobody else's."""

import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.process import free_port
from server.engine.model import ServedModel
from server.grpc import open_inference_pb2 as pb
from server.grpc.methods import route_of
from server.http.ports import reserved, shared
from server.settings import SettingsError
from tests.server.live import live


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
