"""The load generator against a server of a few lines whose answers are known."""

import http.client
import itertools
import json
import shutil
import socketserver
import threading
import time
from collections.abc import Iterator
from email.message import Message

import pytest

from benchmarks.loading import Traffic
from load.generator import Body, Client
from load.outcomes import outcomes

pytestmark = pytest.mark.alone
LATE_S = 0.05
SECONDS = 1


class Scripted(socketserver.ThreadingTCPServer):
    """Answers its requests in turn: at once, late, with a refusal that closes, not at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.turns = itertools.count()
        self.starts: list[float] = []

    @property
    def num_requests(self) -> int:
        """As many as came; asked once."""
        return next(self.turns)


class Answering(socketserver.StreamRequestHandler):
    server: Scripted

    def handle(self) -> None:
        while self.rfile.readline():
            self.rfile.read(int(self._headers()["content-length"]))
            kind = next(self.server.turns) % 4
            if kind == 3:
                return
            time.sleep(LATE_S if kind == 1 else 0)
            body = json.dumps({"index": 0, "exit": 2, "num_exits": 3}).encode()
            status, then = ("503 No", "close") if kind == 2 else ("200 OK", "keep-alive")
            head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: {then}"
            self.wfile.write(head.encode() + b"\r\n\r\n" + body)
            if kind == 2:
                return

    def _headers(self) -> Message:
        found = http.client.parse_headers(self.rfile)
        if (start := found["x-request-start"]) is not None:
            self.server.starts.append(float(start))
        return found


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def bodies(asked: Traffic) -> list[Body]:
    return [Body(file.read_bytes(), "image/png") for file in asked.files]


def test_every_request_of_an_open_loop_is_accounted_for(asked: Traffic, scripted: Scripted) -> None:
    before = time.time()
    num_requests = 80
    client = Client(scripted.url, bodies(asked), says_when=True)
    client.open_loop([number * SECONDS / num_requests for number in range(num_requests)])
    shots = list(client.shots())
    assert len(shots) == num_requests == scripted.num_requests
    assert all(before <= start <= time.time() for start in scripted.starts)
    found = outcomes(shots, SECONDS, 1000 * LATE_S, asked.is_right)
    assert found.offered == num_requests
    assert found.refused == found.failed == 0.25
    assert found.late >= 0.25  # more where the host paused
    assert found.late * num_requests + found.good * SECONDS == num_requests / 2
    assert found.mean_exit == 2
    good = [shot for shot in shots if shot.status == 200 and shot.latency_s <= LATE_S]
    assert found.right == sum(asked.images.labels[shot.body] == 0 for shot in good) / SECONDS


def test_a_closed_loop_keeps_its_connections_busy(asked: Traffic, scripted: Scripted) -> None:
    client = Client(scripted.url, bodies(asked), says_when=True)
    client.closed_loop(4, 0.5)
    assert len(list(client.shots())) == scripted.num_requests > 20


def test_wrk_posts_the_images(asked: Traffic, scripted: Scripted) -> None:
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    found = asked.closed_loop(scripted.url, 4, SECONDS)
    assert found.failed > 0
    assert 0 < found.rate < scripted.num_requests / SECONDS
    assert found.p99_ms >= found.p50_ms > 0


def test_without_wrk_the_generator_answers(
    asked: Traffic, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = asked.closed_loop(scripted.url, 4, SECONDS)
    assert found.failed == pytest.approx(scripted.num_requests / 2, abs=2)
    assert found.p99_ms >= found.p50_ms > 0
