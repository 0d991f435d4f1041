"""Answers as server-sent events: an `exit` event per exit as it is computed, then one `final`.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.engine.job import Answer
from server.errors import NoAnswer
from server.http.problems import problem_of
from server.service import Admitted
from server.telemetry.metrics import Metrics

MEDIA_TYPE = "text/event-stream"
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Proxies are to pass events on as they come; the second header is nginx's."""


class Said(asyncio.Queue[tuple[int, Answer] | None]):
    """An image's number and an answer; None after the last one. Exits times images bound it."""

    def tell(self, image: int, answer: Answer) -> None:
        self.put_nowait((image, answer))


def wants_events(request: Request) -> bool:
    accepted = request.headers.get("accept", "").lower().split(",")
    return any(entry.partition(";")[0].strip() == MEDIA_TYPE for entry in accepted)


class EventStream(StreamingResponse):
    """Sends events as they happen; nobody waits for its reader.

    `final` comes to the plain answer whether or not anybody reads it. Ending the stream before
    then cancels it, and with it the jobs.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        metrics: Metrics,
        admitted: Admitted,
        said: Said,
        final: asyncio.Task[BaseModel],
        exit_event: Callable[[int, Answer], BaseModel],
    ) -> None:
        self._metrics, self._admitted, self._said, self._final = metrics, admitted, said, final
        self._exit_event = exit_event
        final.add_done_callback(self._end)
        self._stream = self._events()
        super().__init__(self._stream, headers=UNBUFFERED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            async with aclosing(self._stream):
                await self.stream_response(send)
        finally:
            self._final.cancel()

    def _end(self, final: asyncio.Task[BaseModel]) -> None:
        if not final.cancelled():
            final.exception()  # seen, even where nobody reads the stream to its end
        self._said.put_nowait(None)

    async def _events(self) -> AsyncGenerator[bytes]:
        try:
            while (entry := await self._said.get()) is not None:
                yield event("exit", self._exit_event(*entry).model_dump_json())
        except asyncio.CancelledError:
            is_done = self._final.done()
            self._metrics.client_gone("response" if is_done else self._admitted.stage)
            raise
        try:
            yield event("final", self._final.result().model_dump_json())
        except NoAnswer as error:
            yield event("error", bytes(problem_of(error).body).decode())


def event(name: str, data: str) -> bytes:
    """One event; `data` is JSON on one line."""
    return f"event: {name}\ndata: {data}\n\n".encode()
