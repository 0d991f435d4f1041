"""One request and its response: the record that every edge reads from and answers through."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from server.errors import BodiesTooLarge, BodyTooLarge, BodyTooLate, ClientGone
from server.service import Service
from server.telemetry.logs import id_of
from server.telemetry.requests import shed_reason

Header = tuple[bytes, bytes]
Headers = tuple[Header, ...]
UNMATCHED = "unmatched"
CLIENT_GONE = 499
"""The status that is counted where the client went away; nginx counts the same."""


@dataclass(slots=True)
class Reply:
    """A whole response; its length is not among the headers yet."""

    status: int
    body: bytes
    media_type: bytes = b"application/json"
    headers: Headers = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Sends it: an ASGI application, as every response is."""
        headers = (
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", self.media_type),
            *self.headers,
        )
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def own_path(scope: Scope) -> str:
    """The path of a request, without the prefix that a proxy in front strips, or has left there."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path[len(prefix) :] if f"{path}/".startswith(f"{prefix}/") else path


def by_name(lines: Iterable[Header]) -> dict[bytes, bytes]:
    """Headers; several lines of one name are a list with commas: RFC 9110, section 5.3."""
    found: dict[bytes, bytes] = {}
    for name, value in lines:
        found[name] = b"%b, %b" % (found[name], value) if name in found else value
    return found


class Held:
    """The bytes of all request bodies that are in memory."""

    def __init__(self) -> None:
        self.num_bytes = 0


class Exchange:
    """A request as it arrives, and its response as it leaves.

    Bounds the body in bytes and in time. Cancels the task that works for a client when that goes
    away. While the body arrives, its reader notices. Later the connection's future `scope["gone"]`
    tells, or where the server has none, a task that waits.
    """

    __slots__ = (
        "_deadline", "_gone", "_is_whole", "_num_bytes", "_receive", "_send", "_task", "arrival",
        "exits", "headers", "held", "id", "is_background", "is_surplus", "is_told_by_head", "lag_s",
        "route", "scope", "service", "status",
    )  # fmt: skip

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, service: Service, held: Held
    ) -> None:
        started = time.monotonic()
        self.scope, self.service, self.held = scope, service, held
        self._receive, self._send = receive, send
        self.arrival: float = scope.get("arrival", started)
        self.lag_s = started - self.arrival
        self.headers = by_name(scope["headers"])
        self.id = id_of(self.header(b"x-request-id") or None)
        self.route, self.status = UNMATCHED, 500
        self.exits: list[int] = []
        self.is_background = self.is_told_by_head = False
        self.is_surplus: bool = scope.get("is_surplus", False)
        # from the arrival, as the connection's timer counts: it wakes the reader at this time
        self._deadline = self.arrival + service.settings.timeouts.receive_timeout_s
        self._num_bytes, self._is_whole = 0, False
        self._gone: asyncio.Future[Any] | None = None
        self._task = asyncio.current_task()

    def header(self, name: bytes) -> str:
        """A request header, given its name in lower case; empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    async def body(self) -> bytes:
        """The whole body; raises BodyTooLarge, BodiesTooLarge, BodyTooLate or ClientGone."""
        message = await self.receive()
        if not message.get("more_body", False):
            return bytes(message.get("body", b""))
        chunks = [message.get("body", b"")]
        while message.get("more_body", False):
            message = await self.receive()
            chunks.append(message.get("body", b""))
        return b"".join(chunks)

    async def receive(self) -> Message:
        """The next part of the body; after its end this waits until the client goes away."""
        if self._is_whole:
            return await self._receive()
        self._check_size(int(self.headers.get(b"content-length", b"0")))
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.service.metrics.client_gone("body")
            raise ClientGone
        self.hold(len(message.get("body", b"")))
        if message.get("more_body", False):
            if time.monotonic() >= self._deadline:
                timeout_s = self.service.settings.timeouts.receive_timeout_s
                raise BodyTooLate(f"the body took longer than {timeout_s} s")
        else:
            self._is_whole = True
            self._watch()
        return message

    def hold(self, num_bytes: int) -> None:
        """Counts bytes of the body until the end; raises BodyTooLarge or BodiesTooLarge."""
        self._num_bytes += num_bytes
        self.held.num_bytes += num_bytes
        self._check_size(self._num_bytes)

    def _check_size(self, num_bytes: int) -> None:
        settings = self.service.settings
        if num_bytes > settings.limits.max_body_bytes:
            raise BodyTooLarge(f"the body is longer than {settings.limits.max_body_bytes} bytes")
        if self.held.num_bytes > settings.limits.max_held_bytes:
            error = BodiesTooLarge(f"bodies of {settings.limits.max_held_bytes} bytes are held")
            self.service.metrics.shed(shed_reason(error), 1)
            raise error

    def _watch(self) -> None:
        self._gone = self.scope.get("gone") or asyncio.ensure_future(self._receive())
        self._gone.add_done_callback(self._cancel)

    def _cancel(self, gone: "asyncio.Future[Any]") -> None:
        if not gone.cancelled() and self._task is not None:
            self._task.cancel()

    def _unwatch(self) -> None:
        if self._gone is not None:
            self._gone.remove_done_callback(self._cancel)
            if "gone" not in self.scope:
                self._gone.cancel()

    def is_gone(self) -> bool:
        """Whether the client went away after its body had come."""
        return self._gone is not None and self._gone.done() and not self._gone.cancelled()

    async def send(self, message: Message) -> None:
        """Sends a part of the response; its start carries the request's id.

        Raises ClientGone if the client has gone. The task is cancelled then, too, but a part that
        is ready would be sent before the cancellation arrives.
        """
        if self.is_gone():
            raise ClientGone
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            if self.service.gate.is_draining or self.is_surplus:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        elif not message.get("more_body", False):
            self._unwatch()
        await self._send(message)

    def end(self) -> None:
        """Lets go of the body and of the connection."""
        self._unwatch()
        self.held.num_bytes -= self._num_bytes
