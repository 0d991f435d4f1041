"""Requests that are too large, too slow or too many are refused, and their connections closed."""

import gzip
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import Any

import httpx
import pytest

from models.bundle.bundle import Bundle
from server.engine.model import ServedModel
from tests.server.http.test_departure import INFER, PATH, TENSOR, check_answers, gated, gone
from tests.server.live import PNG, connect, listening, live, request, samples, until

HEADERS = {"content-type": "image/png"}


def said(client: socket.socket) -> bytes:
    """Everything a server says until it closes the connection."""
    received = b""
    try:
        while part := client.recv(65_536):
            received += part
    except ConnectionResetError:
        pass
    return received


def status(response: bytes) -> int:
    return int(response.split()[1]) if response else 0


def test_a_body_that_trickles_in_is_given_up(model: ServedModel) -> None:
    with live(model, receive_timeout_s=0.3) as url:
        with connect(url) as client:
            client.sendall(request(PATH, num_bytes=1000))
            answer = said(client)
        assert status(answer) == 408
        assert b"connection: close" in answer.lower()
        check_answers(url)


def test_a_byte_now_and_then_keeps_no_body_waiting(model: ServedModel) -> None:
    with live(model, receive_timeout_s=0.3) as url:
        with connect(url) as client:
            client.sendall(request(PATH, b"", num_bytes=1000))
            check_closed_soon(client, b"x")
        assert samples(url)['offramp_requests_total{code="408",route="/v1/classify"}'] == 1
        check_answers(url)


def test_a_byte_now_and_then_keeps_no_headers_waiting(model: ServedModel) -> None:
    with live(model, receive_timeout_s=0.3) as url:
        with connect(url) as client:
            client.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nA: ".encode())
            check_closed_soon(client, b"x")
        check_answers(url)


def check_closed_soon(client: socket.socket, part: bytes) -> None:
    """The server has had enough long before a client that trickles."""
    with pytest.raises(ConnectionError):
        trickle(client, part, times=100, pause_s=0.05)


@pytest.mark.parametrize(
    "start", [b"", b"\r\n", b"POST /v1/cl", b"POST / HTTP/1.1\r\nHost: x\r\nA: ", b"\x16\x03"]
)
def test_headers_that_do_not_come_are_not_waited_for(model: ServedModel, start: bytes) -> None:
    with live(model, receive_timeout_s=0.3) as url:
        with connect(url) as client:
            client.sendall(start)
            assert status(said(client)) in (0, 400)
        check_answers(url)


def test_single_bytes_do_not_keep_an_idle_connection(model: ServedModel) -> None:
    with live(model, receive_timeout_s=0.2, keep_alive_s=1) as url, connect(url) as client:
        client.sendall(request(PATH))
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionError):
            trickle(client, b"\r\n", times=100, pause_s=0.05)


def trickle(client: socket.socket, part: bytes, times: int, pause_s: float = 0) -> None:
    for _ in range(times):
        client.sendall(part)
        time.sleep(pause_s)


def test_a_request_may_take_longer_than_its_headers(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=1)
    with live(model, receive_timeout_s=0.1) as url, connect(url) as client:
        client.sendall(request(PATH))
        time.sleep(0.4)
        runner.gate.set()
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "flood",
    [
        b"GET /" + b"a" * 500_000,
        b"GET / HTTP/1.1\r\n" + b"A: " + b"a" * 500_000,
        b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"a" * 500_000,
    ],
    ids=["path", "value", "lines", "name"],
)
def test_headers_without_end_are_refused(model: ServedModel, flood: bytes) -> None:
    with live(model) as url:
        with connect(url) as client:
            client.sendall(flood)
            assert status(said(client)) == 431
        check_answers(url)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 66_000, 431),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000 + b"\r\n\r\n", 431),
        (request(PATH, headers="A: " + "a" * 100_000 + "\r\n"), 431),
        (request(PATH, b"", 100, headers="A: " + "a" * 100_000 + "\r\n"), 431),
        (request(PATH, headers="A: " + "a" * 65_000 + "\r\nConnection: close\r\n"), 200),
        (request(PATH, b"", 100, "A: " + "a" * 65_000 + "\r\n") + b"a" * 100, 400),
    ],
    ids=["unfinished", "whole", "POST", "POST without its body", "just short enough", "body later"],
)
def test_headers_have_a_limit(model: ServedModel, sent: bytes, expected: int) -> None:
    with live(model) as url:
        with connect(url) as client:
            client.sendall(sent)
            assert status(client.recv(65_536)) == expected
        check_answers(url)


def test_long_headers_behind_another_request_end_the_connection(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=1)
    with live(model) as url:
        with connect(url) as client:
            client.sendall(request(PATH) + b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n")
            assert said(client) == b"", "a refusal would be taken for the first one's answer"
        runner.gate.set()
        check_answers(url)


def test_trailers_without_end_are_refused(model: ServedModel) -> None:
    start = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode()
    body, trailer = b"\r\n1\r\na\r\n0\r\n", b"A: " + b"a" * 1000 + b"\r\n"
    with live(model) as url:
        with connect(url) as client:
            client.sendall(start + b"Content-Type: image/png\r\n" + body)
            with pytest.raises(ConnectionError):  # it waits for the end of its body
                trickle(client, trailer, times=10_000)
        with connect(url) as client:
            client.sendall(start + body)
            assert status(client.recv(65_536)) == 415  # its body may follow
            trickle(client, trailer, times=100)
            assert b"HTTP/1.1 431 " in said(client)
        check_answers(url)


@pytest.mark.parametrize("path", [PATH, INFER])
def test_a_long_chunk_is_refused_before_the_body_ends(model: ServedModel, path: str) -> None:
    head = request(path).partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    with live(model, max_body_bytes=1000) as url:
        with connect(url) as client:
            client.sendall(head + b"7d0\r\n" + b"x" * 2000 + b"\r\n")
            answer = said(client)
        assert status(answer) == 413
        assert b"connection: close" in answer.lower()
        check_answers(url)


def test_a_long_body_is_refused_before_it_is_sent(model: ServedModel) -> None:
    with live(model, max_body_bytes=1000) as url:
        with connect(url) as client:
            client.sendall(request(PATH, num_bytes=2**40))
            answer = said(client)
        assert status(answer) == 413
        assert b"connection: close" in answer.lower()
        check_answers(url)


@pytest.mark.parametrize("closes", [False, True])
def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(
    model: ServedModel, closes: bool
) -> None:
    headers = "Expect: 100-continue\r\n" + "Connection: close\r\n" * closes
    with live(model) as url, connect(url) as client:
        client.sendall(request(PATH, b"", num_bytes=len(PNG), headers=headers))
        assert client.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(PNG)
        assert status(client.recv(65_536)) == 200


def test_an_unread_body_is_dropped_for_a_while(model: ServedModel) -> None:
    keys = sha256(b"a-long-random-key").hexdigest()
    limits = {"keep_alive_s": 1, "receive_timeout_s": 0.5}
    with live(model, api_key_hashes=keys, **limits) as url, connect(url) as client:
        for num_bytes in (900_000, 900_000):
            client.sendall(request(PATH, b"x" * num_bytes))
            assert status(client.recv(65_536)) == 401
        client.sendall(request(PATH, num_bytes=2**40))
        assert status(client.recv(65_536)) == 401
        check_closed_soon(client, b"x" * 65_536)


@pytest.mark.parametrize(("num_bytes", "expected"), [(900_000, 401), (1_900_000, 413)])
def test_a_client_that_closes_gets_the_refusal_of_a_body_it_still_sends(
    model: ServedModel, num_bytes: int, expected: int
) -> None:
    keys = {"api_key_hashes": sha256(b"a-long-random-key").hexdigest()} if expected == 401 else {}
    with live(model, max_body_bytes=1_000_000, **keys) as url:
        asked = urllib.request.Request(url + PATH, b"x" * num_bytes, HEADERS)
        for _ in range(20):  # urllib sends all of it before it listens
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(asked)
            with refused.value as answer:
                assert (answer.code, answer.headers["connection"]) == (expected, "close")


def test_a_connection_that_is_to_be_closed_reads_no_more_after_its_deadline(
    model: ServedModel,
) -> None:
    with live(model, receive_timeout_s=0.5) as url:
        with connect(url) as client:
            client.sendall(request(PATH, num_bytes=2**40))
            assert status(said(client)) == 413
            check_closed_soon(client, b"x" * 65_536)
        check_answers(url)


def test_bodies_that_are_too_many_together(model: ServedModel) -> None:
    half = request(PATH, b"x" * 60_000, num_bytes=100_000)
    with live(model, max_body_bytes=100_000, max_held_bytes=100_000) as url:
        with connect(url) as first, connect(url) as second:
            first.sendall(half)
            second.sendall(half)
            until(lambda: samples(url)['offramp_shed_total{reason="bodies"}'] == 1)
            assert check_refused(first, second) == 1
        until(lambda: samples(url)[gone("body")] == 1)
        check_answers(url)


def test_bodies_that_are_too_many_once_they_are_inflated(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=1)
    body = gzip.compress(TENSOR.encode().ljust(60_000))
    ask = partial(httpx.post, content=body, headers={"content-encoding": "gzip"})
    with (
        live(model, workers=2, max_body_bytes=100_000, max_held_bytes=100_000) as url,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(ask, f"{url}{INFER}")
        until(lambda: runner.num_waiting == 1)
        second = ask(f"{url}{INFER}")
        assert (second.status_code, second.json()["error"]) == (
            503,
            "bodies of 100000 bytes are held",
        )
        runner.gate.set()
        assert first.result().status_code == 200
        assert ask(f"{url}{INFER}").status_code == 200, "the first has let go of its bytes"


def check_refused(*clients: socket.socket) -> int:
    """How many of these were told to come again later; the others wait for no more than that."""
    answers = []
    for client in clients:
        client.settimeout(0.5)
        with suppress(TimeoutError):
            answers.append(said(client))
    assert all(status(answer) == 503 for answer in answers)
    assert all(b"retry-after: " in answer.lower() for answer in answers)
    assert all(b"connection: close" in answer.lower() for answer in answers)
    return len(answers)


def test_more_requests_than_may_be_in_progress(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=1)
    with live(model, max_requests=2) as url:
        with connect(url) as first, connect(url) as second:
            first.sendall(request(PATH, num_bytes=1000))
            second.sendall(request(PATH, num_bytes=1000))
            until(lambda: refused(url).status_code == 503)
            with httpx.Client(base_url=url) as third:
                again = [third.post(PATH, headers=HEADERS) for _ in range(50)]
            assert {said.headers["retry-after"] for said in again} == {"1", "2", "3"}
            with connect(url) as fourth:
                fourth.sendall(request(PATH, b"", num_bytes=1000))
                assert status(fourth.recv(65_536)) == 503, "before it has sent its body"
            assert samples(url)['offramp_shed_total{reason="requests"}'] >= 2
            assert httpx.get(f"{url}/readyz").status_code == 200
        until(lambda: samples(url)[gone("body")] == 2)
        runner.gate.set()
        check_answers(url)


def refused(url: str) -> httpx.Response:
    return httpx.post(f"{url}{PATH}", content=b"no image", headers=HEADERS)


def test_more_connections_than_may_be_open(model: ServedModel) -> None:
    with live(model, max_connections=3) as url:
        held = [httpx.Client(base_url=url) for _ in range(3)]
        assert [client.get("/v1/models").status_code for client in held] == 3 * [200]
        for path, count in ((PATH, 1), ("/v1/models", 2), ("/v2/models/digits/infer", 3)):
            said = httpx.request("GET" if path == "/v1/models" else "POST", f"{url}{path}")
            assert said.status_code == 503
            assert said.headers["retry-after"] in {"1", "2", "3"}
            assert said.headers["connection"] == "close"
            problem = said.json()
            assert problem["error" if "v2" in path else "detail"] == "3 connections are open"
            assert samples(url)['offramp_shed_total{reason="connections"}'] == count
        assert samples(url)['offramp_requests_total{code="503",route="/v1/classify"}'] == 1
        for probe in ("/healthz", "/readyz"):
            said = httpx.get(f"{url}{probe}")
            assert (said.status_code, said.headers["connection"]) == (200, "close")
        for client in held:
            assert client.post(PATH, content=PNG, headers=HEADERS).status_code == 200
        held.pop().close()
        until(lambda: httpx.get(f"{url}/v1/models").status_code == 200)
        for client in held:
            client.close()
        check_answers(url)


def test_a_connection_made_in_a_crowd_is_served_once_the_others_have_gone(
    model: ServedModel,
) -> None:
    with listening(model, max_connections=1) as (server, url):
        connections = server.server_state.connections
        with connect(url) as first, connect(url) as second:
            until(lambda: len(connections) == 2)
            first.close()
            until(lambda: len(connections) == 1)
            second.sendall(request(PATH))
            assert status(second.recv(65_536)) == 200
            second.sendall(request(PATH))
            assert status(second.recv(65_536)) == 200
        check_answers(url)


@pytest.mark.alone
def test_a_client_that_reads_nothing_is_dropped(model: ServedModel) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="i"\r\n\r\n%b\r\n' % PNG
    body = part * 2000 + b"--x--\r\n"
    limits: dict[str, Any] = {"max_images": 2000, "max_in_flight": 2000, "send_timeout_s": 0.3}
    with live(model, **limits) as url:
        with connect(url) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = request(f"{PATH}&top_k=10", body, headers="Accept: text/event-stream\r\n")
            client.sendall(head.replace(b"image/png", b"multipart/form-data; boundary=x"))
            stages = "segment", "response"  # segments may still run when the buffers are full
            until(lambda: sum(samples(url)[gone(stage)] for stage in stages) == 1)
        until(lambda: samples(url)["offramp_in_flight"] == 0)
        assert samples(url)['offramp_requests_total{code="499",route="/v1/classify"}'] == 1
        check_answers(url)


@pytest.mark.parametrize("encoding", ["gzip", "br", "nonsense"])
def test_encoded_bodies_are_not_taken(model: ServedModel, encoding: str) -> None:
    with live(model) as url:
        headers = HEADERS | {"content-encoding": encoding}
        answer = httpx.post(f"{url}{PATH}", content=PNG, headers=headers)
        assert answer.status_code == 415
        check_answers(url)


@pytest.mark.parametrize("encoding", ["", "Identity"])
def test_a_body_without_an_encoding_is_taken(model: ServedModel, encoding: str) -> None:
    with live(model) as url:
        headers = HEADERS | {"content-encoding": encoding}
        assert httpx.post(f"{url}{PATH}", content=PNG, headers=headers).status_code == 200
