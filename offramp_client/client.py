"""The two clients: the same calls, one of them to be awaited."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, Unpack

import httpx
from httpx_sse import EventSource

from offramp_client.answers import Classification, Options, answers_of
from offramp_client.errors import check
from offramp_client.events import Event, events_as_they_come, events_of

TIMEOUT_S = 30.0
STREAM = {"accept": "text/event-stream"}


Row = Mapping[str, Any] | Sequence[Any] | float
"""A value for each of the model's tensors by its name, or its one tensor's value: nested lists."""


def request_of(
    images: Sequence[bytes], texts: Sequence[str], rows: Sequence[Row], options: Options
) -> dict[str, Any]:
    """The arguments of httpx for one request."""
    if [len(images) > 0, len(texts) > 0, len(rows) > 0].count(True) != 1:
        raise ValueError("a request has images, texts or rows")
    params = {name: str(value) for name, value in options.items()}
    asked: dict[str, Any] = {"url": "/v1/classify", "params": params}
    if images:
        return asked | {"files": [("image", image) for image in images]}
    return asked | {"json": {"texts": list(texts)} if texts else {"rows": list(rows)}}


def listed(image: bytes | None, text: str | None, row: Row | None) -> dict[str, Any]:
    """One of the three as the arguments of `classify_all`."""
    given = {"images": image, "texts": text, "rows": row}
    return {name: [value] for name, value in given.items() if value is not None}


def headers_of(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


class Client:
    """A server at `url`, with a key where it needs one.

    Images are the bytes of PNG, JPEG or WebP files; what a Row is depends on the model. A request
    has images, texts or rows: else calls raise ValueError. They raise OfframpError where the
    server refuses, and httpx.TransportError where it cannot be reached, or goes away.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._http = httpx.Client(base_url=url, headers=headers_of(key), timeout=timeout_s)

    def classify(
        self,
        image: bytes | None = None,
        *,
        text: str | None = None,
        row: Row | None = None,
        **options: Unpack[Options],
    ) -> Classification:
        """One image, text or row of numbers."""
        return self.classify_all(**listed(image, text, row), **options)[0]

    def classify_all(
        self,
        images: Sequence[bytes] = (),
        *,
        texts: Sequence[str] = (),
        rows: Sequence[Row] = (),
        **options: Unpack[Options],
    ) -> list[Classification]:
        """Several images, texts or rows in one request, answered in their order."""
        response = self._http.post(**request_of(images, texts, rows, options))
        check(response)
        return answers_of(response.json())

    @contextmanager
    def stream(
        self,
        images: Sequence[bytes] = (),
        *,
        texts: Sequence[str] = (),
        rows: Sequence[Row] = (),
        **options: Unpack[Options],
    ) -> Generator[Iterator[Event]]:
        """Every exit as it is computed, then the answers. Leaving early ends the work."""
        request = request_of(images, texts, rows, options)
        with self._http.stream("POST", headers=STREAM, **request) as response:
            if not response.is_success:
                response.read()
            check(response)
            yield events_of(EventSource(response).iter_sse())

    def models(self) -> list[dict[str, Any]]:
        """What is served: versions, input, labels, exits, operating points."""
        response = self._http.get("/v1/models")
        check(response)
        models: list[dict[str, Any]] = response.json()["models"]
        return models

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """As Client."""

    def __init__(self, url: str, key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=headers_of(key), timeout=timeout_s)

    async def classify(
        self,
        image: bytes | None = None,
        *,
        text: str | None = None,
        row: Row | None = None,
        **options: Unpack[Options],
    ) -> Classification:
        """One image, text or row of numbers."""
        return (await self.classify_all(**listed(image, text, row), **options))[0]

    async def classify_all(
        self,
        images: Sequence[bytes] = (),
        *,
        texts: Sequence[str] = (),
        rows: Sequence[Row] = (),
        **options: Unpack[Options],
    ) -> list[Classification]:
        """Several images, texts or rows in one request, answered in their order."""
        response = await self._http.post(**request_of(images, texts, rows, options))
        check(response)
        return answers_of(response.json())

    @asynccontextmanager
    async def stream(
        self,
        images: Sequence[bytes] = (),
        *,
        texts: Sequence[str] = (),
        rows: Sequence[Row] = (),
        **options: Unpack[Options],
    ) -> AsyncGenerator[AsyncIterator[Event]]:
        """Every exit as it is computed, then the answers. Leaving early ends the work."""
        request = request_of(images, texts, rows, options)
        async with self._http.stream("POST", headers=STREAM, **request) as response:
            if not response.is_success:
                await response.aread()
            check(response)
            yield events_as_they_come(EventSource(response).aiter_sse())

    async def models(self) -> list[dict[str, Any]]:
        """What is served: versions, input, labels, exits, operating points."""
        response = await self._http.get("/v1/models")
        check(response)
        models: list[dict[str, Any]] = response.json()["models"]
        return models

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
