"""The two clients: the same calls, one of them to be awaited."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, Unpack

import httpx

from offramp_client.answers import Classification, Options, answers_of
from offramp_client.errors import check
from offramp_client.events import Event, EventParser

TIMEOUT_S = 30.0
STREAM = {"accept": "text/event-stream"}


def request_of(images: Sequence[bytes], options: Options) -> dict[str, Any]:
    """The arguments of httpx for one request."""
    params = {name: str(value) for name, value in options.items()}
    return {"url": "/v1/classify", "params": params, "files": [("image", i) for i in images]}


def headers_of(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


class Client:
    """A server at `url`, with a key where it needs one.

    Images are the bytes of PNG, JPEG or WebP files. Calls raise OfframpError where the server
    refuses, and httpx.TransportError where it cannot be reached.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._http = httpx.Client(base_url=url, headers=headers_of(key), timeout=timeout_s)

    def classify(self, image: bytes, **options: Unpack[Options]) -> Classification:
        return self.classify_all([image], **options)[0]

    def classify_all(
        self, images: Sequence[bytes], **options: Unpack[Options]
    ) -> list[Classification]:
        """Several images in one request, answered in their order."""
        response = self._http.post(**request_of(images, options))
        check(response)
        return answers_of(response.json())

    @contextmanager
    def stream(
        self, images: Sequence[bytes], **options: Unpack[Options]
    ) -> Generator[Iterator[Event]]:
        """Every exit as it is computed, then the answers. Leaving early ends the work."""
        request = request_of(images, options)
        with self._http.stream("POST", headers=STREAM, **request) as response:
            if not response.is_success:
                response.read()
            check(response)
            yield filter(None, map(EventParser().feed, response.iter_lines()))

    def models(self) -> list[dict[str, Any]]:
        """What is served: versions, labels, exits with accuracy and cost, operating points."""
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

    async def classify(self, image: bytes, **options: Unpack[Options]) -> Classification:
        return (await self.classify_all([image], **options))[0]

    async def classify_all(
        self, images: Sequence[bytes], **options: Unpack[Options]
    ) -> list[Classification]:
        """Several images in one request, answered in their order."""
        response = await self._http.post(**request_of(images, options))
        check(response)
        return answers_of(response.json())

    @asynccontextmanager
    async def stream(
        self, images: Sequence[bytes], **options: Unpack[Options]
    ) -> AsyncGenerator[AsyncIterator[Event]]:
        """Every exit as it is computed, then the answers. Leaving early ends the work."""
        request = request_of(images, options)
        async with self._http.stream("POST", headers=STREAM, **request) as response:
            if not response.is_success:
                await response.aread()
            check(response)
            parser = EventParser()
            events = (parser.feed(line) async for line in response.aiter_lines())
            yield (event async for event in events if event is not None)

    async def models(self) -> list[dict[str, Any]]:
        """What is served: versions, labels, exits with accuracy and cost, operating points."""
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
