"""One request over gRPC: its message in time and in bounds, counted and logged once."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import grpc
from grpc import StatusCode

from server.errors import BodiesTooLarge, BodyTooLate, ClientGone, Draining
from server.http.exchange import CLIENT_GONE, Held
from server.http.problems import problem_of, status_of
from server.service import Service
from server.telemetry.logs import id_of, is_logged, log_request, request_id
from server.telemetry.requests import shed_reason

Context = grpc.aio.ServicerContext[bytes, bytes]
Metadata = tuple[tuple[str, str], ...]
CODES: dict[int, StatusCode] = {
    HTTPStatus.BAD_REQUEST: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: StatusCode.INVALID_ARGUMENT,
    HTTPStatus.INTERNAL_SERVER_ERROR: StatusCode.INTERNAL,
    HTTPStatus.SERVICE_UNAVAILABLE: StatusCode.UNAVAILABLE,
}
"""Of every status that an error has under `/v2`."""
PUSHBACK = "grpc-retry-pushback-ms"
"""After how long a client may try again: gRPC's name for Retry-After."""


class Front:
    """What all calls of a server share."""

    def __init__(self, service: Service) -> None:
        self.service, self.held = service, Held()
        self._ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """No further message is waited for."""
        self._ending.set_result(None)

    async def next_message(self, context: Context, timeout_s: float) -> bytes | None:
        """The client's next message, None after its last; raises BodyTooLate or Draining."""
        reading: asyncio.Future[Any] = asyncio.ensure_future(context.read())
        try:
            await asyncio.wait(
                (reading, self._ending), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if reading.done():
                message = reading.result()
                return message if isinstance(message, bytes) else None
        finally:
            reading.cancel()
        if self._ending.done():
            raise Draining("the server is ending")
        raise BodyTooLate(f"no message came for {timeout_s} s")

    async def send(self, context: Context, message: bytes) -> None:
        """Raises ClientGone where the client leaves too much unread for too long."""
        try:
            async with asyncio.timeout(self.service.settings.timeouts.send_timeout_s):
                await context.write(message)
        except TimeoutError:
            raise ClientGone from None


class Call:
    """A request: the only one of a call, or one of a stream's. `deadline` is the call's own."""

    __slots__ = (
        "_held", "_num_bytes", "arrival", "authorization", "code", "deadline", "detail", "exits",
        "id", "is_background", "lag_s", "metadata", "route", "service",
    )  # fmt: skip

    def __init__(self, front: Front, context: Context, route: str) -> None:
        started, left_s = time.monotonic(), context.time_remaining()
        self.service, self._held, self.route = front.service, front.held, route
        self.arrival = started - self.service.engine.waited_s(started)
        self.lag_s = started - self.arrival
        self.deadline = None if left_s is None else started + left_s
        given = context.invocation_metadata() or ()
        # as over HTTP: more than one is none of the keys
        self.authorization = ", ".join(str(v) for name, v in given if name == "authorization")
        self.id = id_of(str(dict(given).get("x-request-id", "")) or None)
        request_id.set(self.id)
        self.metadata: Metadata = (("x-request-id", self.id),)
        self.code, self.detail = HTTPStatus.OK.value, ""
        self.exits: list[int] = []
        self.is_background = False
        self._num_bytes = 0

    def hold(self, message: bytes) -> None:
        """Counts a message's bytes until the end; raises BodiesTooLarge."""
        self._num_bytes = len(message)
        self._held.num_bytes += self._num_bytes
        bound = self.service.settings.limits.max_held_bytes
        if self._held.num_bytes > bound:
            error = BodiesTooLarge(f"messages of {bound} bytes are held")
            self.service.metrics.shed(shed_reason(error), 1)
            raise error

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts and logs the request at its end. Of an error it keeps status and detail."""
        gate = self.service.gate
        gate.num_requests += 1
        try:
            yield
        except (asyncio.CancelledError, ClientGone):
            self.code = CLIENT_GONE
            raise
        except Exception as error:
            problem, headers = problem_of(error)
            self.code, self.detail = status_of(problem), problem.detail
            if "Retry-After" in headers:
                self.metadata += ((PUSHBACK, f"{headers['Retry-After']}000"),)
            raise
        finally:
            gate.num_requests -= 1
            self._held.num_bytes -= self._num_bytes
            self._count()

    def _count(self) -> None:
        seconds, metrics = time.monotonic() - self.arrival, self.service.metrics
        is_timed = not self.is_background
        metrics.request_ended(self.route, self.code, seconds, is_timed=is_timed)
        if is_logged():
            line = "POST", self.route, self.code, seconds, self.exits, self.id
            metrics.ledger.write(log_request, time.time(), *line)
