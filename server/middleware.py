"""Pure ASGI middleware: arrival times, request metrics, and the cap on bodies."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTooLarge, ClientGone
from server.metrics import Metrics

UNMATCHED = "unmatched"
CLIENT_GONE = 499
"""The status counted for a request whose client went away: nginx's."""


class Observe:
    """Stamps every request's arrival and counts it, by route template and status, at its end."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

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

        try:
            await self.app(scope, receive, observed)
        except ClientGone:
            code = CLIENT_GONE
        finally:
            route = getattr(scope.get("route"), "path", UNMATCHED)
            self.metrics.request_ended(route, code, time.monotonic() - arrival)


class LimitBody:
    """Stops reading a body at `max_bytes`, whatever its Content-Length says."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                raise BodyTooLarge(f"the body is longer than {self.max_bytes} bytes")
            return message

        await self.app(scope, limited, send)
