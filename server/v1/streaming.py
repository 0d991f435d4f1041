"""Server-sent events: an `exit` event per exit as it is computed, then `final` or `error`.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.engine.job import Answer
from server.errors import ClientGone
from server.http.accepting import accepted
from server.http.exchange import Exchange
from server.http.problems import problem_of
from server.running import Running
from server.telemetry.metrics import Metrics
from server.v1.answers import Json

MEDIA_TYPE = "text/event-stream"
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Proxies are to pass events on as they come; the second header is nginx's."""


class Said(asyncio.Queue[tuple[int, Answer] | None]):
    """An image's number and an answer; None after the last one. Exits times images bound it."""

    def tell(self, image: int, answer: Answer) -> None:
        self.put_nowait((image, answer))


def wants_events(exchange: Exchange) -> bool:
    header = exchange.header(b"accept").lower()
    return MEDIA_TYPE in header and MEDIA_TYPE in accepted(header)


class EventStream(StreamingResponse):
    """Sends events as they happen; the engine does not wait for their reader.

    `final` comes to the plain answer whether or not the stream is read. Ending the stream before
    then cancels it, and with it the jobs.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        metrics: Metrics,
        running: Running,
        said: Said,
        final: asyncio.Task[Json],
        exit_event: Callable[[int, Answer], Json],
    ) -> None:
        self._metrics, self._running, self._said, self._final = metrics, running, said, final
        self._exit_event = exit_event
        final.add_done_callback(self._end)
        self._stream = self._events()
        super().__init__(self._stream, headers=UNBUFFERED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            async with aclosing(self._stream):
                await self.stream_response(send)
        except (ClientGone, asyncio.CancelledError):
            stage = "response" if self._final.done() else self._running.stage
            self._metrics.client_gone(stage)
            await asyncio.sleep(0)  # `final` has begun by then, else its end would cancel no jobs
            raise
        finally:
            self._final.cancel()

    def _end(self, final: asyncio.Task[Json]) -> None:
        if not final.cancelled():
            final.exception()  # seen, even where the stream is not read to its end
        self._said.put_nowait(None)

    async def _events(self) -> AsyncGenerator[bytes]:
        while (entry := await self._said.get()) is not None:
            yield event("exit", orjson.dumps(self._exit_event(*entry)))
        try:
            yield event("final", orjson.dumps(self._final.result()))
        except Exception as error:  # the status has been sent: only an event can tell
            yield event("error", problem_of(error)[0].model_dump_json(exclude_none=True).encode())


def event(name: str, data: bytes) -> bytes:
    """One event; `data` is JSON on one line."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
