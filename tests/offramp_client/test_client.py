"""The client against a real server: what it gives is what the server says."""

import asyncio
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks.process import ROOT, ServerProcess
from offramp_client import AsyncClient, Client, Exit, Final, OfframpError, answers
from offramp_client.errors import check
from server.v1 import schemas
from tests.conftest import Serve
from tests.images import encoded

KEY = "a-long-random-key"
IMAGES = [encoded(Image.new("L", (8, 8), shade), "PNG") for shade in (0, 90, 180)]


@pytest.fixture(scope="module")
def server(serve: Serve, digits_zoo: Path) -> Iterator[ServerProcess]:
    with serve(digits_zoo, api_key_hashes=sha256(KEY.encode()).hexdigest()) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.url, KEY) as session:
        yield session


def without_times(answer: Any) -> dict[str, Any]:  # noqa: ANN401
    return {name: value for name, value in answer.items() if name not in ("cost", "trace")}


def test_answers_are_the_servers(server: ServerProcess, client: Client) -> None:
    headers = {"content-type": "image/png", "authorization": f"Bearer {KEY}"}
    query = {"threshold": "1", "top_k": "3"}
    for image in IMAGES:
        raw = httpx.post(f"{server.url}/v1/classify", content=image, headers=headers, params=query)
        answer = client.classify(image, threshold=1.0, top_k=3)
        assert without_times(answer) == without_times(raw.json())


def test_several_images_are_answered_in_order(client: Client) -> None:
    together = client.classify_all(IMAGES, threshold=1.0)
    alone = [client.classify(image, threshold=1.0) for image in IMAGES]
    assert [a["label"] for a in together] == [a["label"] for a in alone]


def test_stream_gives_every_exit_and_then_the_answers(client: Client) -> None:
    with client.stream(IMAGES[:2], threshold=1.0, trace=True) as events:
        *exits, final = list(events)
    assert isinstance(final, Final)
    said = [event.said for event in exits if isinstance(event, Exit)]
    assert len(said) == len(exits) == 6
    for image, answer in enumerate(final.answers):
        own = [s["confidence"] for s in said if s["image"] == image]
        assert own == [entry["confidence"] for entry in answer["trace"]]


def test_leaving_a_stream_early_leaves_the_client_usable(client: Client) -> None:
    for _ in range(3):
        with client.stream(IMAGES, threshold=1.0) as events:
            assert isinstance(next(events), Exit)
    assert client.classify(IMAGES[0])["num_exits"] == 3


EXIT = 'event: exit\ndata: {"image": 0}\n\n'
FINAL = 'event: final\ndata: {"label": "a"}\n\n'
LATER = "event: later\ndata: {}\n\n"


@pytest.mark.parametrize(
    ("said", "types"),
    [
        ("", None),
        (EXIT, None),
        (EXIT + FINAL, [Exit, Final]),
        (EXIT + FINAL + LATER, [Exit, Final]),
    ],
)
def test_a_stream_that_ends_before_the_answers_is_an_error(
    said: str, types: list[type] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=said)

    async def told() -> list[type]:
        async with AsyncClient("http://x") as session:
            http = httpx.AsyncClient(base_url="http://x", transport=httpx.MockTransport(answer))
            monkeypatch.setattr(session, "_http", http)
            async with session.stream(IMAGES[:1]) as events:
                return [type(event) async for event in events]

    def told_at_once() -> list[type]:
        with Client("http://x") as session:
            http = httpx.Client(base_url="http://x", transport=httpx.MockTransport(answer))
            monkeypatch.setattr(session, "_http", http)
            with session.stream(IMAGES[:1]) as events:
                return list(map(type, events))

    for stream in (told_at_once, lambda: asyncio.run(told())):
        if types is None:
            with pytest.raises(httpx.RemoteProtocolError, match="before its final event"):
                stream()
        else:
            assert stream() == types


def test_the_async_client_says_the_same(server: ServerProcess, client: Client) -> None:
    async def run() -> None:
        async with AsyncClient(server.url, KEY) as session:
            answers = await asyncio.gather(*[session.classify(i, threshold=1.0) for i in IMAGES])
            expected = [client.classify(image, threshold=1.0) for image in IMAGES]
            assert list(map(without_times, answers)) == list(map(without_times, expected))
            async with session.stream(IMAGES[:1], threshold=1.0) as events:
                told = [event async for event in events]
            assert [type(event) for event in told] == [Exit, Exit, Exit, Final]
            assert await session.models() == client.models()
            with pytest.raises(OfframpError):
                await session.classify(b"no image")
            with pytest.raises(OfframpError):
                async with session.stream([b"no image"]):
                    pass

    asyncio.run(run())


def test_refusals_say_why(server: ServerProcess, client: Client) -> None:
    with pytest.raises(OfframpError) as refused:
        client.classify(IMAGES[0], threshold=2.0)
    assert refused.value.status == 422
    assert [error["field"] for error in refused.value.errors] == ["threshold"]
    with pytest.raises(OfframpError, match="400 Bad Request"), client.stream([b"no image"]):
        pass
    with pytest.raises(OfframpError) as late:
        client.classify(IMAGES[0], latency_budget_ms=0.001, strict=True)
    assert late.value.retry_after_s is not None
    assert late.value.retry_after_s >= 1
    with Client(server.url) as stranger, pytest.raises(OfframpError, match="401"):
        stranger.models()


@pytest.mark.parametrize(
    ("given", "seconds"), [("3", 3.0), ("Fri, 31 Dec 1999 23:59:59 GMT", None), ("", None)]
)
def test_what_a_proxy_says_is_an_error_too(given: str, seconds: float | None) -> None:
    with pytest.raises(OfframpError, match="502 Bad Gateway: <html>") as refused:
        check(httpx.Response(502, headers={"retry-after": given}, text="<html>"))
    assert refused.value.retry_after_s == seconds


@pytest.mark.parametrize("charset", ["", "; charset=utf-8"])
def test_a_problem_document_of_a_proxy_may_lack_members(charset: str) -> None:
    headers = {"content-type": f"application/problem+json{charset}"}
    with pytest.raises(OfframpError) as refused:
        check(httpx.Response(403, headers=headers, text='{"title": "Blocked"}'))
    assert str(refused.value) == '403 Blocked: {"title": "Blocked"}'
    assert (refused.value.status, refused.value.errors) == (403, [])


def test_an_error_is_the_same_in_another_process() -> None:
    errors = [{"field": "top_k", "detail": "too large"}]
    problem = {"status": 422, "title": "Unprocessable", "detail": "top_k", "errors": errors}
    error = OfframpError(problem, 2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status, again.errors) == (str(error), 422, errors)
    assert (again.detail, again.retry_after_s) == ("top_k", 2.0)


@pytest.mark.parametrize(
    ("typed", "schema"),
    [
        (answers.Options, schemas.Parameters),
        (answers.Labelled, schemas.Labelled),
        (answers.Budget, schemas.BudgetReport),
        (answers.Cost, schemas.CostReport),
        (answers.TraceEntry, schemas.TraceEntry),
        (answers.Classification, schemas.Classification),
        (answers.ExitSaid, schemas.ExitEvent),
    ],
)
def test_types_name_what_the_server_has(typed: Any, schema: Any) -> None:  # noqa: ANN401
    assert typed.__annotations__.keys() == schema.model_fields.keys()


def test_the_client_needs_httpx_alone() -> None:
    code = "import sys, offramp_client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"server", "models", "pydantic", "numpy"} & set(done.stdout.split())


def test_the_example_of_the_guide_runs(server: ServerProcess, client: Client) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/serving.md").read_text(), re.DOTALL)
    code = code.replace('"http://127.0.0.1:8000"', f"{server.url!r}, key={KEY!r}")
    code = code.replace("cifar100-msdnet", "digits")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
