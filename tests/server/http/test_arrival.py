"""How long a request has waited in the kernel, by the kernel's own account."""

import asyncio
import socket
import sys
import time
from collections.abc import Iterator
from math import inf

import pytest

from server.http.arrival import HALF_TICK_S, unread_s

TICK_S = 2 * HALF_TICK_S


def transport_of(sock: socket.socket) -> asyncio.Transport:
    return asyncio.Transport(extra={"socket": sock})


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection's two ends."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked in Linux's way")
def test_the_kernel_knows_when_the_bytes_came(ends: tuple[socket.socket, socket.socket]) -> None:
    """Its ticks come late on a busy machine; the early bytes are 0.1 s older all the same."""
    client, accepted = ends
    client.send(b"early")
    time.sleep(0.1)
    sent_at = time.monotonic()
    client.send(b"late")
    time.sleep(0.04)
    waited_s = unread_s(transport_of(accepted))
    assert 0.04 - TICK_S <= waited_s <= time.monotonic() - sent_at + 0.05


def test_where_none_can_say_the_wait_has_no_bound(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    left, right = socket.socketpair()
    with left, right:
        assert unread_s(transport_of(left)) == inf, "a Unix socket"
    assert unread_s(asyncio.Transport()) == inf
    _, accepted = ends
    accepted.close()
    assert unread_s(transport_of(accepted)) == inf, "the connection is lost"
