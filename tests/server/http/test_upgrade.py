"""Clients that offer HTTP/2, as those of the JDK do, are answered in HTTP/1.1."""

import socket

import pytest

from server.engine.model import ServedModel
from tests.server.http.test_departure import PATH, check_answers
from tests.server.live import PNG, connect, live, request

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
HEAD = request(PATH, b"", num_bytes=len(PNG), headers=H2C)
CLOSING = HEAD.replace(b"Upgrade, ", b"Upgrade, close, ")
CHUNKED = HEAD.replace(b"Content-Length: %d" % len(PNG), b"Transfer-Encoding: chunked")
IN_CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG)
WEBSOCKET = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def status(client: socket.socket) -> int:
    """Of the next answer, read to its end."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(1)
    length = next(line for line in answer.split(b"\r\n") if line.startswith(b"content-length"))
    left = int(length.split()[1])
    while left > 0:
        left -= len(client.recv(left))
    return int(answer.split()[1])


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD + PNG],
        [HEAD, PNG],
        [HEAD[:20], HEAD[20:-2], HEAD[-2:] + PNG[:9], PNG[9:]],
        [HEAD[i : i + 1] for i in range(len(HEAD))] + [PNG],
        [CHUNKED + IN_CHUNKS],
        [CHUNKED, IN_CHUNKS],
        [WEBSOCKET],
    ],
    ids=["together", "in two", "in pieces", "in bytes", "chunked", "chunked, in two", "no body"],
)
def test_an_offer_of_another_protocol_is_ignored(model: ServedModel, parts: list[bytes]) -> None:
    with live(model) as url, connect(url) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # the second time on the same connection
            for part in parts:
                client.sendall(part)
            assert status(client) == 200
        client.sendall(request(PATH))
        assert status(client) == 200
        check_answers(url)


def test_requests_behind_an_offer_are_answered(model: ServedModel) -> None:
    with live(model) as url, connect(url) as client:
        client.sendall(2 * (HEAD + PNG + WEBSOCKET) + CLOSING + PNG)
        assert [status(client) for _ in range(5)] == [200] * 5
        assert client.recv(1) == b"", "as it was asked for"
        check_answers(url)
