"""Pure ASGI middleware: arrival times, request metrics, and the cap on bodies."""

import asyncio
import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodiesTooLarge, BodyTooLarge, BodyTooLate, ClientGone
from server.http.gate import Gate
from server.settings import Settings
from server.telemetry.logs import ACCESS_LOGGER, id_of, request_id
from server.telemetry.metrics import SHED_REASONS, Metrics

logger = logging.getLogger(ACCESS_LOGGER)
UNMATCHED = "unmatched"
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
CLIENT_GONE = 499
"""The status counted for a request whose client went away: nginx's."""


class Observe:
    """Stamps every request's id, and its arrival where the server has not; at its end counts it, by
    route template and status, and logs it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, gate: Gate) -> None:
        self.app, self.metrics, self.gate = app, metrics, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.monotonic()
        arrival = scope.setdefault("arrival", started)
        scope["lag_s"] = started - arrival
        request_id.set(own_id := id_of(Headers(scope=scope).get("x-request-id")))
        code = 500

        async def observed(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"].append((b"x-request-id", own_id.encode()))
                if self.gate.is_draining:
                    message["headers"].append((b"connection", b"close"))
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
            seconds = time.monotonic() - arrival
            self.metrics.request_ended(route, code, seconds)
            log(scope, route, code, seconds)


def log(scope: Scope, route: str, code: int, seconds: float) -> None:
    """One line per request, with nothing in it that a client wrote but its request id."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": scope["method"] if scope["method"] in METHODS else "other",
        "route": route,
        "code": code,
        "duration_ms": round(1000 * seconds, 3),
        "exits": scope.get("exits", []),
    }
    logger.info("request", extra={"fields": fields})


class LimitBody:
    """Stops reading a body at `max_body_bytes`, or when it has not arrived after
    `receive_timeout_s`, or where all that are held have `max_held_bytes`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, settings: Settings) -> None:
        self.app, self.metrics, self.settings = app, metrics, settings
        self.num_held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        timeout_s = self.settings.receive_timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s
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
                raise BodyTooLate(f"the body took longer than {timeout_s} s") from None
            num_new = len(message.get("body", b""))
            num_bytes += num_new
            self.num_held += num_new
            self._check(num_bytes)
            is_whole = not message.get("more_body", False)
            return message

        try:
            await self.app(scope, limited, send)
        finally:
            self.num_held -= num_bytes

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self.settings.max_body_bytes:
            raise BodyTooLarge(f"the body is longer than {self.settings.max_body_bytes} bytes")
        if self.num_held > self.settings.max_held_bytes:
            self.metrics.shed(SHED_REASONS[BodiesTooLarge], 1)
            raise BodiesTooLarge(f"bodies of {self.settings.max_held_bytes} bytes are held")
