"""Under too much load those in a hurry are refused unread, and only those."""

import json
import socket
from collections import Counter
from contextlib import ExitStack

import pytest

from server.http import gate
from server.http.door import Door
from server.http.gate import FEWEST, Gate
from server.telemetry.metrics import Metrics
from server.zoo.catalog import ServedModel
from tests.server.live import PNG, connect, live, request, samples

URL = b"/v1/classify?top_k=1&latency_budget_ms=20&trace=true"
SHED = 'offramp_shed_total{reason="overload"}'
REFUSED = 'offramp_requests_total{code="503",route="/v1/classify"}'


def narrow(budget_s: float = 0.02) -> Gate:
    """A gate for which everything is too much."""
    made = Gate(100)
    for _ in range(100):
        made.refused(budget_s)
    return made


def test_refusals_narrow_the_gate_and_answers_widen_it() -> None:
    made = Gate(100)
    assert not made.is_full(99)
    made.num_requests = 40
    made.refused(0.02)
    assert (made.is_full(38), made.is_full(39)) == (False, True)
    made.refused(0.02)
    assert (made.is_full(37), made.is_full(38)) == (False, True)
    for _ in range(4):
        made.answered()
    assert (made.is_full(38), made.is_full(39)) == (False, True)


def test_some_are_let_in_however_great_the_load() -> None:
    made = narrow()
    assert (made.is_full(FEWEST - 1), made.is_full(FEWEST)) == (False, True)


def test_only_those_in_as_great_a_hurry_are_too_many() -> None:
    made = narrow(0.02)
    assert made.is_in_a_hurry(0.02)
    assert not made.is_in_a_hurry(0.021)
    made.refused(0.05)
    assert made.is_in_a_hurry(0.05)


def test_a_refusal_of_somebody_in_no_hurry_says_nothing_of_time() -> None:
    made = Gate(100)
    made.refused(None)
    assert not made.is_full(99)


def test_a_gate_that_is_wide_open_again_has_forgotten() -> None:
    made = narrow(10.0)
    for _ in range(round((100 - FEWEST) / gate.WIDENED) + 1):
        made.answered()
    assert not made.is_full(99)
    assert not made.is_in_a_hurry(0.001)


def test_a_refusal_is_a_problem_document_that_is_counted() -> None:
    metrics = Metrics()
    given = [(b"x-request-id", b"mine"), (b"content-type", b"image/png")]
    refusal = Door(narrow(), metrics).refusal(URL, given, 50)
    assert refusal is not None
    head, _, body = refusal.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"x-request-id"] == b"mine"
    assert fields[b"retry-after"] in (b"1", b"2", b"3")
    assert int(fields[b"content-length"]) == len(body)
    detail = "the first answer would come too late"
    assert json.loads(body) == {"title": "Service Unavailable", "status": 503, "detail": detail}
    exposed = metrics.exposition().decode()
    assert f"{SHED} 1.0" in exposed
    assert f"{REFUSED} 1.0" in exposed


@pytest.mark.parametrize(
    ("url", "headers", "num_inside"),
    [
        (URL, [], FEWEST - 1),
        (b"/v1/classify", [], 50),
        (b"/v1/classify?latency_budget_ms=1000", [], 50),
        (b"/v1/classify?latency_budget_ms=-1", [], 50),
        (b"/v1/classify?latency_budget_ms=1e-3", [], 50),
        (b"/v1/classify?not_latency_budget_ms=20", [], 50),
        (b"/v1/models?latency_budget_ms=20", [], 50),
        (URL, [(b"origin", b"https://elsewhere.example")], 50),
    ],
)
def test_all_others_are_let_in(
    url: bytes, headers: list[tuple[bytes, bytes]], num_inside: int
) -> None:
    assert Door(narrow(), Metrics()).refusal(url, headers, num_inside) is None


def test_connections_go_on_after_a_refusal(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gate, "is_full", lambda _, num_inside: num_inside >= 3)
    monkeypatch.setattr(Gate, "is_in_a_hurry", lambda _, budget_s: budget_s < 1)
    hurried = request("/v1/classify?latency_budget_ms=500")
    statuses: Counter[int] = Counter()
    with live(model, max_in_flight=100) as url, ExitStack() as clients:
        sockets = [clients.enter_context(connect(url)) for _ in range(60)]
        for _ in range(50):
            for client in sockets:
                client.sendall(hurried)
            statuses.update(map(answered, sockets))
            if statuses[503] > 10:
                break
        assert statuses[503] > 10
        assert set(statuses) == {200, 503}
        for client in sockets:
            client.sendall(request("/v1/classify"))
            assert answered(client) == 200
        counted = samples(url)
    assert counted[REFUSED] == statuses[503] == counted[SHED]
    assert counted['offramp_requests_total{code="200",route="/v1/classify"}'] == statuses[200] + 60


def test_what_the_scheduler_refuses_for_lack_of_time_narrows_the_gate(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst that no worker can answer within its budget; the gate hears of it."""
    told: list[float | None] = []
    monkeypatch.setattr(Gate, "refused", lambda _, budget_s: told.append(budget_s))
    with live(model, workers=1) as url, ExitStack() as clients:
        sockets = [clients.enter_context(connect(url)) for _ in range(60)]
        for client in sockets:
            client.sendall(request("/v1/classify?latency_budget_ms=12"))
        statuses = Counter(map(answered, sockets))
    assert statuses[503] > 0
    assert told == [0.012] * statuses[503]


def test_a_refused_client_that_wants_no_more_is_let_go(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Door, "refusal", lambda *_: b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    with live(model) as url:
        with connect(url) as client:
            client.sendall(request("/v1/classify", headers="Connection: close\r\n"))
            assert client.recv(1000).startswith(b"HTTP/1.1 503")
            assert client.recv(1000) == b""
        with connect(url) as client:  # who waits for leave to send its body is let in
            client.sendall(request("/v1/classify", b"", len(PNG), "Expect: 100-continue\r\n"))
            assert client.recv(1000).startswith(b"HTTP/1.1 100")
            client.sendall(PNG)
            assert client.recv(65_536).startswith(b"HTTP/1.1 200")


def answered(client: socket.socket) -> int:
    """The status of the next response, all of which is read."""
    head, _, body = client.recv(65_536).partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += client.recv(65_536)
    return int(head.split()[1])
