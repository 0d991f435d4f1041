"""A load generator: open loop at a rate, or closed loop over connections.

Every answer is kept as it came and read only after the run. In an open loop requests are sent when
they are due, on an idle connection or a new one, however late the server is with those before:
latency counts from the instant a request was due.
"""

import json
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from load.connection import Address, Connection

LAST_ANSWERS_S = 5.0
"""How long the last requests are waited for."""
EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
ENDS = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


@dataclass(frozen=True)
class Body:
    """What a request sends: an encoded image or a text, and its media type."""

    content: bytes
    kind: str


@dataclass(frozen=True)
class Shot:
    """One request: its body's place, when it was due, sent and answered, and what the answer said.

    Times are seconds from the start of the run; `status` 0 is a connection that broke or gave no
    answer in time.
    """

    body: int
    due_s: float
    sent_s: float
    done_s: float
    status: int
    answer: dict[str, Any]

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """When requests are due, in seconds: a Poisson process, the same for the same seed."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, round(rate * seconds))
    due: list[float] = gaps.cumsum().tolist()
    return due


def resolved(host: str, port: int) -> tuple[socket.AddressFamily, Address]:
    """Where a server is: in IPv4 if the host has both."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, *_, address = min(found, key=lambda each: each[0])
    return family, address


def nothing(*_: object) -> None:
    """Does nothing."""


class Client:
    """Sends bodies to one route over as many connections as are needed.

    One thread and one epoll: the server on the same cores lacks what the client takes. Connections
    are watched for changes only, so that each is registered once. `headers` are names and values.
    With `says_when` a request says when it was sent, as a proxy in front of the server would:
    `X-Request-Start`, seconds since 1970.
    """

    def __init__(
        self,
        url: str,
        bodies: Sequence[Body],
        headers: Sequence[tuple[str, str]] = (),
        *,
        says_when: bool = False,
    ) -> None:
        parts = urlsplit(url)
        self._place = resolved(parts.hostname or "", parts.port or 80)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        first = (f"POST {target} HTTP/1.1", f"Host: {parts.netloc}", *map(": ".join, headers))
        self._requests = [
            (
                "\r\n".join(
                    (*first, f"Content-Type: {b.kind}", f"Content-Length: {len(b.content)}")
                ).encode(),
                b"\r\n\r\n" + b.content,
            )
            for b in bodies
        ]
        self._says_when = says_when
        self._poll = select.epoll()
        self._open: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._waiting: dict[int, tuple[float, float]] = {}
        self._seen: list[tuple[int, float, float, float, int, bytes]] = []
        self._then: Callable[[], None] = nothing
        self.start = 0.0

    def shoot(self, index: int, due_s: float) -> None:
        """Sends one request now; its answer is noted."""
        self._waiting[index] = due_s, self.now()
        head, tail = self._requests[index % len(self._requests)]
        connection = self._connection()
        connection.request = index
        when = b"\r\nX-Request-Start: %.6f" % time.time() if self._says_when else b""
        connection.send(b"".join((head, when, tail)))

    def _connection(self) -> Connection:
        """An idle connection that the server has not closed, else a new one."""
        while self._idle:
            if not (connection := self._idle.pop()).is_closed:
                return connection
        connection = Connection(*self._place, self._answered)
        self._open[connection.file] = connection
        self._poll.register(connection.file, EVENTS)
        return connection

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        if (index := connection.request) is None:
            return
        connection.request = None
        if not connection.is_closed:
            self._idle.append(connection)
        due_s, sent_s = self._waiting.pop(index)
        place = index % len(self._requests)
        self._seen.append((place, due_s, sent_s, self.now(), status, body))
        self._then()

    def _wait(self, seconds: float) -> None:
        """Takes what arrives; returns after the first of it, or after so many seconds."""
        if seconds > 0:
            select.select([self._poll], [], [], seconds)  # epoll's own wait rounds to milliseconds
        for file, events in self._poll.poll(0):
            connection = self._open[file]
            if events & select.EPOLLOUT:
                connection.send()
            if events & select.EPOLLIN:
                connection.receive()
            if events & ENDS:
                connection.close()
            if (
                connection.is_closed and self._open[file] is connection
            ):  # else the file is another's
                del self._open[file]

    def now(self) -> float:
        return time.monotonic() - self.start

    def open_loop(
        self, due: Sequence[float], progress: Callable[[float, int], None] = nothing
    ) -> None:
        """Sends a request at each of these seconds from now.

        `progress` is told the seconds and the answers so far, after each request. A
        KeyboardInterrupt ends the loop; requests that have no answer by then are not noted.
        """
        self.start = time.monotonic()
        try:
            for index, due_s in enumerate(due):
                self._wait(due_s - self.now())
                while (wait_s := due_s - self.now()) > 0:
                    self._wait(wait_s)
                self.shoot(index, due_s)
                progress(due_s, len(self._seen))
            self._wait_until(self.now() + LAST_ANSWERS_S)
        except KeyboardInterrupt:
            self._forget()
            raise
        finally:
            self._close()

    def closed_loop(self, connections: int, seconds: float) -> None:
        """Each connection sends its next request as soon as it has its answer."""
        self.start = time.monotonic()
        indices = count()

        def again() -> None:
            if (now := self.now()) < seconds:
                self.shoot(next(indices), now)

        self._then = again
        for _ in range(connections):
            again()
        self._wait_until(seconds + LAST_ANSWERS_S)
        self._close()

    def _wait_until(self, end_s: float) -> None:
        """Returns once every request has its answer, or then."""
        while self._waiting and (left_s := end_s - self.now()) > 0:
            self._wait(left_s)

    def _forget(self) -> None:
        """Waits for no request any more."""
        for connection in self._open.values():
            connection.request = None

    def _close(self) -> None:
        """Ends the connections; requests without an answer yet are noted as failed."""
        self._then = nothing
        for connection in self._open.values():
            connection.close()
        self._poll.close()

    def shots(self) -> Iterator[Shot]:
        for place, due_s, sent_s, done_s, status, body in self._seen:
            answer = json.loads(body) if status == 200 else {}
            yield Shot(place, due_s, sent_s, done_s, status, answer)
