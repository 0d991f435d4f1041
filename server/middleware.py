"""Pure ASGI middleware: arrival times, request metrics, and the cap on bodies."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTooLarge, BodyTooLate, ClientGone
from server.gate import Gate
from server.metrics import Metrics

UNMATCHED = "unmatched"
CLIENT_GONE = 499
"""The status counted for a request whose client went away: nginx's."""


class Observe:
    """Stamps every request's arrival and counts it, by route template and status, at its end."""

    def __init__(self, app: ASGIApp, metrics: Metrics, gate: Gate) -> None:
        self.app, self.metrics, self.gate = app, metrics, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["arrival"] = arrival = time.monotonic()
        code = 500

        async def observed(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        num_requests = 1 if scope["method"] == "POST" else 0
        self.gate.num_requests += num_requests
        try:
            await self.app(scope, receive, observed)
        except ClientGone:
            code = CLIENT_GONE
        finally:
            self.gate.num_requests -= num_requests
            route = getattr(scope.get("route"), "path", UNMATCHED)
            self.metrics.request_ended(route, code, time.monotonic() - arrival)


class LimitBody:
    """Stops reading a body at `max_bytes`, or when it has not arrived after `timeout_s`."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self.app, self.max_bytes, self.timeout_s = app, max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        num_announced = int(Headers(scope=scope).get("content-length", "0"))
        num_bytes, is_whole = 0, False

        async def limited() -> Message:
            nonlocal num_bytes, is_whole
            if is_whole:
                return await receive()
            self._check(num_announced)
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise BodyTooLate(f"the body took longer than {self.timeout_s} s") from None
            num_bytes += len(message.get("body", b""))
            self._check(num_bytes)
            is_whole = not message.get("more_body", False)
            return message

        await self.app(scope, limited, send)

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise BodyTooLarge(f"the body is longer than {self.max_bytes} bytes")
