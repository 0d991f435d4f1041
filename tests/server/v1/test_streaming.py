"""Each exit as it is computed, then the plain answer; leaving early frees the slot."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import Message

from models.bundle.bundle import Bundle
from server.engine.job import Demand
from server.engine.model import ServedModel
from server.errors import ClientGone, Infeasible, Overloaded, Unavailable
from server.http.problems import UNEXPECTED
from server.running import Results, Running, Served
from server.service import Service
from server.telemetry.metrics import Metrics
from server.v1.answers import Json
from server.v1.streaming import EventStream, Said
from tests.server.engines import ANY, NEVER, failing
from tests.server.http.test_departure import (
    ENDINGS,
    PATH,
    check_answers,
    ended,
    gated,
    gone,
    segments,
)
from tests.server.live import PNG, connect, live, request, samples, until

HEADERS = {"content-type": "image/png", "accept": "text/event-stream"}
ACCEPT = "Accept: text/event-stream\r\n"


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """The names and data of a stream's events."""
    for line in lines:
        name = line.removeprefix("event: ")
        data = next(lines).removeprefix("data: ")
        assert next(lines) == ""
        yield name, json.loads(data)


def streamed(url: str, query: str, **body: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
    headers = HEADERS if "content" in body else {"accept": "text/event-stream"}
    with httpx.stream("POST", f"{url}/v1/classify?{query}", headers=headers, **body) as said:
        assert said.status_code == 200
        assert said.headers["content-type"].startswith("text/event-stream")
        assert said.headers["x-accel-buffering"] == "no"
        return list(events(said.iter_lines()))


def test_every_exit_and_then_the_plain_answer(model: ServedModel) -> None:
    with live(model) as url:
        query = "threshold=1&top_k=3&trace=true"
        *exits, (name, final) = streamed(url, query, content=PNG)
        assert [n for n, _ in exits] == ["exit"] * 3
        assert name == "final"
        plain = httpx.post(
            f"{url}/v1/classify?{query}", content=PNG, headers=HEADERS | {"accept": ""}
        )
        timed = {"cost", "trace"}
        assert {k: v for k, v in final.items() if k not in timed} == {
            k: v for k, v in plain.json().items() if k not in timed
        }
        assert list(final) == list(plain.json())
        for (_, said), traced in zip(exits, final["trace"], strict=True):
            assert {k: said[k] for k in traced} == traced
            assert (said["image"], said["num_exits"], len(said["top_k"])) == (0, 3, 3)
        assert exits[-1][1]["top_k"] == final["top_k"]


def test_an_exit_is_sent_before_the_next_segment_has_run(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=2)
    with (
        live(model) as url,
        httpx.stream("POST", f"{url}{PATH}", headers=HEADERS, content=PNG) as said,
    ):
        stream = events(said.iter_lines())
        name, first = next(stream)
        assert (name, first["exit"]) == ("exit", 1)
        assert not runner.gate.is_set()
        runner.gate.set()
        assert [name for name, _ in stream] == ["exit", "exit", "final"]


def test_heads_that_nobody_consults_do_not_run_for_a_stream(model: ServedModel) -> None:
    consulted = model.default_point.consulted
    with live(model) as url:
        *exits, (_, final) = streamed(url, "trace=true", content=PNG)
        assert [e["exit"] for _, e in exits] == [e["exit"] for e in final["trace"]]
        assert set(consulted).issuperset(e["exit"] for _, e in exits[:-1])


def test_several_images_are_told_apart(model: ServedModel) -> None:
    with live(model) as url:
        files = [("image", PNG)] * 4
        *exits, (_, final) = streamed(url, "threshold=1", files=files)
        assert len(final["results"]) == 4
        for image in range(4):
            assert [e["exit"] for _, e in exits if e["image"] == image] == [1, 2, 3]


def test_leaving_early_frees_the_slot_and_is_no_error(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=2)
    with live(model, workers=1) as url:
        with connect(url) as client:
            client.sendall(request(PATH, headers=ACCEPT))
            received = b""
            while b"event: exit" not in received:
                received += client.recv(4096)
        until(lambda: samples(url)[gone("segment")] == 1)
        runner.gate.set()
        until(lambda: samples(url)["offramp_in_flight"] == 0)
        said = samples(url)
        assert [said[ended(e)] for e in ENDINGS] == [0, 0, 1]
        assert said[segments(3)] == 0
        assert said['offramp_requests_total{code="499",route="/v1/classify"}'] == 1
        check_answers(url)


def test_a_client_that_is_gone_before_its_stream_begins_frees_the_slot_too(
    model: ServedModel,
) -> None:
    async def run() -> list[str]:
        done, never = list[str](), asyncio.get_running_loop().create_future()

        async def final() -> Json:
            try:
                await never
            finally:
                done.append("final")
            return {}

        async def receive() -> Message:
            return {}

        async def send(_: Message) -> None:
            raise ClientGone

        running = Running(Demand(model, NEVER, ANY, 0.0), [], Results(1), 0.0)
        task = asyncio.ensure_future(final())
        stream = EventStream(Metrics(), running, Said(), task, lambda *_: {})
        with pytest.raises(ClientGone):
            await stream({}, receive, send)
        await asyncio.wait([task])
        return done

    assert asyncio.run(run()) == ["final"]


def test_refused_requests_are_plain_problems(model: ServedModel) -> None:
    with live(model) as url:
        for query, status in (("threshold=2", 422), ("strict=true&latency_budget_ms=0.001", 503)):
            said = httpx.post(f"{url}/v1/classify?{query}", content=PNG, headers=HEADERS)
            assert said.status_code == status
            assert said.headers["content-type"] == "application/problem+json"


def test_a_failure_on_the_way_is_an_event(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("made to fail")

    monkeypatch.setattr(model.runner, "run_segment", fail)
    with live(model) as url:
        ((name, problem),) = streamed(url, "", content=PNG)
        assert (name, problem["status"]) == ("error", 500)
        assert samples(url)[ended("failed")] == 1


@pytest.mark.parametrize(
    ("failure", "status", "detail"),
    [
        (Overloaded("every queue is full"), 503, "every queue is full"),
        (Infeasible("too late"), 503, "too late"),
        (Unavailable("no replica stays alive"), 503, "no replica stays alive"),
        (KeyError("secret"), 500, UNEXPECTED),
    ],
)
def test_whatever_fails_on_the_way_is_an_event(
    model: ServedModel,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    status: int,
    detail: str,
) -> None:
    async def fail(service: Service, running: Running) -> Served:
        await finish(service, running)
        raise failure

    finish = Service.finish
    monkeypatch.setattr(Service, "finish", fail)
    with live(model) as url:
        *exits, (name, problem) = streamed(url, "threshold=1", content=PNG)
        assert [said["exit"] for _, said in exits] == [1, 2, 3]
        assert (name, problem["status"], problem["detail"]) == ("error", status, detail)


def test_a_stream_ends_with_what_it_has_where_a_later_segment_fails(
    digits_bundle: Bundle,
) -> None:
    with live(failing(digits_bundle, (3, False))) as url:
        *exits, (name, final) = streamed(url, "threshold=1", content=PNG)
    assert [said["exit"] for _, said in exits] == [1, 2]
    assert (name, final["exit"], final["stop_reason"]) == ("final", 2, "degraded")


@pytest.mark.parametrize(
    ("accept", "is_stream"),
    [
        ("text/event-stream", True),
        ("application/json, Text/Event-Stream;q=0.9", True),
        ("text/event-stream; charset=utf-8", True),
        ("*/*, text/event-stream; charset=utf-8; q=0.0", False),
        ("*/*", False),
        ("text/plain", False),
    ],
)
def test_who_gets_a_stream(model: ServedModel, accept: str, is_stream: bool) -> None:
    with live(model) as url:
        said = httpx.post(f"{url}/v1/classify", content=PNG, headers=HEADERS | {"accept": accept})
        assert said.headers["content-type"].startswith("text/event-stream") == is_stream


def test_a_stream_that_nobody_reads_delays_nobody(model: ServedModel) -> None:
    async def run(url: str) -> None:
        headers = {"accept": "text/event-stream"}
        async with httpx.AsyncClient(base_url=url) as client:
            for _ in range(3):
                unread = client.build_request(
                    "POST", PATH, headers=headers, files=[("image", PNG)] * 64
                )
                await client.send(unread, stream=True)
            said = await client.post(PATH, content=PNG, headers={"content-type": "image/png"})
            assert said.json()["exit"] == 3

    with live(model) as url:
        asyncio.run(run(url))
        until(lambda: samples(url)["offramp_in_flight"] == 0)
        said = samples(url)
        assert sum(said[ended(e)] for e in ENDINGS) == 3 * 64 + 1
