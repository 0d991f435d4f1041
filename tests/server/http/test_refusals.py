"""Under overload a request like one that was just refused is refused unread, and counted."""

import base64
import pickle
import time
from hashlib import sha256

import pytest

from server.engine.admission import Slots
from server.engine.engine import Engine
from server.engine.job import Demand
from server.engine.model import ServedModel
from server.errors import Overloaded
from server.http import refusals
from tests.server.http.test_edge import client
from tests.server.live import PNG

PATH = "/v1/classify?latency_budget_ms=25"
HEADERS = {"content-type": "image/png"}
TOO_LATE = "the first answer would come too late"
KEY = "a-long-random-key"


class Refusing:
    """Stands for `Engine.admit`: refuses each request, and notes that it was asked."""

    def __init__(self, late_s: float) -> None:
        self.late_s, self.num_asked = late_s, 0

    def __call__(self, demand: Demand, num_rows: int, *, strict: bool = False) -> Slots:  # noqa: ARG002
        self.num_asked += 1
        raise Overloaded(TOO_LATE, 0.004, self.late_s)


def refusing(monkeypatch: pytest.MonkeyPatch, late_s: float, in_flight: int = 1) -> Refusing:
    """In an engine that has `in_flight` rows to answer; refusals are kept for all their time."""
    refuse = Refusing(late_s)
    monkeypatch.setattr(Engine, "admit", refuse)
    monkeypatch.setattr(Engine, "in_flight", lambda _: in_flight)
    monkeypatch.setattr(refusals, "MAX_KEPT_S", 60.0)
    return refuse


def test_a_request_like_one_just_refused_is_refused_unread(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = refusing(monkeypatch, 60.0)
    with client(model) as http:
        said = [http.post(PATH, content=c, headers=HEADERS) for c in (PNG, PNG, b"no image")]
        metrics = http.get("/metrics").text
    assert refuse.num_asked == 1
    assert [each.status_code for each in said] == [503] * 3
    assert {each.json()["detail"] for each in said} == {TOO_LATE}
    assert len({each.headers["x-request-id"] for each in said}) == 3
    assert 'offramp_shed_total{reason="overload"} 3' in metrics
    assert 'offramp_requests_total{code="503",route="/v1/classify"} 3' in metrics


def test_clients_refused_unread_come_back_at_different_times(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = refusing(monkeypatch, 60.0)
    with client(model) as http:
        replies = [http.post(PATH, content=PNG, headers=HEADERS) for _ in range(40)]
    assert refuse.num_asked == 1
    assert {reply.headers["retry-after"] for reply in replies} == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"expect": "100-continue"}, 503),  # the client may never send the body
        ({"content-encoding": "gzip"}, 415),  # it need not come again
    ],
)
def test_some_requests_are_always_read(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], status: int
) -> None:
    refuse = refusing(monkeypatch, 60.0)
    with client(model) as http:
        http.post(PATH, content=PNG, headers=HEADERS)
        assert http.post(PATH, content=PNG, headers=HEADERS | headers).status_code == status
    assert refuse.num_asked == (2 if status == 503 else 1)


def test_a_body_that_is_too_long_is_refused_for_that(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, 60.0)
    with client(model, max_body_bytes=len(PNG)) as http:
        http.post(PATH, content=PNG, headers=HEADERS)
        assert http.post(PATH, content=PNG + b"x", headers=HEADERS).status_code == 413


def test_a_body_without_a_length_is_read(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = refusing(monkeypatch, 60.0)
    with client(model) as http:
        http.post(PATH, content=PNG, headers=HEADERS)
        http.post(PATH, content=iter([PNG]), headers=HEADERS)
    assert refuse.num_asked == 2


def test_newcomers_lack_the_time_of_those_refused_unread(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, 60.0)
    with client(model) as http:
        for _ in range(3):
            http.post(PATH, content=PNG, headers=HEADERS)
        debt = http.app.state.service.engine.admission.scheduler.debt  # type: ignore[attr-defined]
        assert debt.is_owed(time.monotonic())
        debt.repay(0.0079)  # of two, each lacking 4 ms: the engine that noted the first is made up
        assert debt.is_owed(time.monotonic())
        debt.repay(0.0002)
        assert not debt.is_owed(time.monotonic())


@pytest.mark.parametrize(("late_s", "max_kept_s"), [(0.05, 60.0), (60.0, 0.05)])
def test_a_refusal_ends_when_one_could_be_in_time_or_is_too_old(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, late_s: float, max_kept_s: float
) -> None:
    """Jobs that were waited for may be over much earlier than expected."""
    refuse = refusing(monkeypatch, late_s)
    monkeypatch.setattr(refusals, "MAX_KEPT_S", max_kept_s)
    with client(model) as http:
        http.post(PATH, content=PNG, headers=HEADERS)
        time.sleep(0.1)
        http.post(PATH, content=PNG, headers=HEADERS)
    assert refuse.num_asked == 2


def test_a_server_with_nothing_else_to_do_refuses_nothing_unread(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = refusing(monkeypatch, 60.0, in_flight=0)
    with client(model) as http:
        for _ in range(3):
            http.post(PATH, content=PNG, headers=HEADERS)
    assert refuse.num_asked == 3


@pytest.mark.parametrize("late_s", [0.0, 60.0])
def test_what_asks_for_something_else_is_read(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, late_s: float
) -> None:
    """A refusal for want of a slot says nothing of the time after it."""
    refuse = refusing(monkeypatch, late_s)
    image = base64.b64encode(PNG).decode()
    with client(model) as http:
        http.post(PATH, content=PNG, headers=HEADERS)
        http.post(f"{PATH}0", content=PNG, headers=HEADERS)
        http.post(PATH, content=PNG, headers={"content-type": "image/jpeg"})
        for budget in (25, 250):
            http.post("/v1/classify", json={"images": [image], "latency_budget_ms": budget})
            http.post("/v1/classify", files={"image": PNG}, data={"latency_budget_ms": str(budget)})
        assert refuse.num_asked == 7
        http.post(PATH, content=PNG, headers=HEADERS)
    assert refuse.num_asked == (7 if late_s else 8)


def test_a_key_is_asked_for_first(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = refusing(monkeypatch, 60.0)
    own = HEADERS | {"authorization": f"Bearer {KEY}"}
    with client(model, api_key_hashes=sha256(KEY.encode()).hexdigest()) as http:
        statuses = [
            http.post(PATH, content=PNG, headers=headers).status_code
            for headers in (own, HEADERS, own)
        ]
    assert statuses == [503, 401, 503]
    assert refuse.num_asked == 1


def test_nothing_is_refused_unread_whose_answer_may_be_kept(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(model, max_cached_bytes=100_000) as http:
        assert http.post("/v1/classify", content=PNG, headers=HEADERS).status_code == 200
        refuse = refusing(monkeypatch, 60.0)
        kept, other = PNG, PNG + b"\0"
        statuses = [
            http.post(PATH, content=content, headers=HEADERS).status_code
            for content in (other, kept, other)
        ]
    assert statuses == [503, 200, 503]
    assert refuse.num_asked == 2


def test_what_a_client_may_vary_at_will_takes_no_memory(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = refusing(monkeypatch, 60.0)
    with client(model) as http:
        for budget in range(25, 25 + 600):
            http.post(f"/v1/classify?latency_budget_ms={budget}", content=PNG, headers=HEADERS)
        kept = http.app.middleware_stack._refusals._kept  # type: ignore[attr-defined]
        assert 0 < len(kept) <= refusals.MAX_KEPT
        assert all(error.__traceback__ is None for error, *_ in kept.values())  # it holds bodies
    assert refuse.num_asked == 600


def test_a_refusal_from_elsewhere_says_nothing_of_requests_here() -> None:
    error: Overloaded = pickle.loads(pickle.dumps(Overloaded(TOO_LATE, 0.004, 60.0)))
    assert (str(error), error.lacked_s, error.late_s) == (TOO_LATE, 0.0, 0.0)
