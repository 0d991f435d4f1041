"""A load generator in a process of its own: open loop at a rate, or closed loop over connections.

    python -m benchmarks.load URL IMAGES.npz OUT.json --rate 500 --seconds 10

Every answer is kept as it came and read only after the run. In an open loop requests are sent when
they are due, on an idle connection or a new one, however late the server is with those before:
latency counts from the instant a request was due.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import typer
import uvloop

LAST_ANSWERS_S = 5.0
"""How long the last requests are waited for."""
Answered = Callable[[int, bytes], None]


@dataclass(frozen=True)
class Shot:
    """One request: its image, when it was due, sent and answered, and what the answer said.

    Times are seconds from the start of the run; `status` 0 is a connection that broke or gave no
    answer in time.
    """

    image: int
    due_s: float
    sent_s: float
    done_s: float
    status: int
    answer: dict[str, Any]

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport
        self._answered: Answered | None = None
        self._new_answer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's own kind

    def ask(self, request: bytes, answered: Answered) -> None:
        """Sends a request; `answered` is called with its status and body, once."""
        self._answered = answered
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), self._body
        self._new_answer()
        self._end(status, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(0, str(exc).encode())

    def _end(self, status: int, body: bytes) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(status, body)

    def _new_answer(self) -> None:
        self._parser, self._body = httptools.HttpResponseParser(self), b""


class Client:
    """Sends images to one route over as many connections as are needed.

    It runs callbacks, not tasks: what it takes is missing to the server on the same cores.
    """

    def __init__(self, url: str, images: Sequence[bytes]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self._requests = [
            f"POST {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: image/png\r\n"
            f"Content-Length: {len(image)}\r\n\r\n".encode()
            + image
            for image in images
        ]
        self._idle: list[Connection] = []
        self._waiting: dict[int, tuple[float, float]] = {}
        self._seen: list[tuple[int, float, float, float, int, bytes]] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._then: Callable[[], None] = nothing
        self.start = 0.0

    def shoot(self, index: int, due_s: float) -> None:
        """Sends one request now; what becomes of it is noted."""
        self._waiting[index] = due_s, self.now()
        if (connection := self._alive()) is not None:
            self._ask(connection, index)
        else:
            task = asyncio.ensure_future(self._connect_and_ask(index))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect_and_ask(self, index: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, self._host, self._port)
        except OSError as error:
            self._note(index, 0, str(error).encode())
        else:
            self._ask(connection, index)

    def _ask(self, connection: Connection, index: int) -> None:
        def answered(status: int, body: bytes) -> None:
            if status:
                self._idle.append(connection)
            self._note(index, status, body)

        connection.ask(self._requests[index % len(self._requests)], answered)

    def _note(self, index: int, status: int, body: bytes) -> None:
        if (times := self._waiting.pop(index, None)) is not None:
            image = index % len(self._requests)
            self._seen.append((image, *times, self.now(), status, body))
            self._then()

    def _alive(self) -> Connection | None:
        """An idle connection that the server has not closed."""
        while self._idle:
            if not (connection := self._idle.pop()).transport.is_closing():
                return connection
        return None

    def now(self) -> float:
        return time.monotonic() - self.start

    async def open_loop(self, due: Sequence[float]) -> None:
        """Sends a request at each of these seconds from now."""
        self.start = time.monotonic()
        for index, due_s in enumerate(due):
            if (wait_s := due_s - self.now()) > 0:
                await asyncio.sleep(wait_s)
            self.shoot(index, due_s)
        end = self.now() + LAST_ANSWERS_S
        while self._waiting and self.now() < end:
            await asyncio.sleep(0.01)
        self._give_up()

    async def closed_loop(self, connections: int, seconds: float) -> None:
        """Each connection sends its next request as soon as it has its answer."""
        self.start = time.monotonic()
        indices, ended = count(), asyncio.Event()

        def again() -> None:
            if (now := self.now()) < seconds:
                self.shoot(next(indices), now)
            elif not self._waiting:
                ended.set()

        self._then = again
        for _ in range(connections):
            again()
        await ended.wait()

    def _give_up(self) -> None:
        """Whoever has no answer yet gets none."""
        self._then = nothing
        for index in list(self._waiting):
            self._note(index, 0, b"")

    def shots(self) -> Iterator[Shot]:
        for image, due_s, sent_s, done_s, status, body in self._seen:
            answer = json.loads(body) if status == 200 else {}
            yield Shot(image, due_s, sent_s, done_s, status, answer)


def nothing() -> None:
    """Nothing comes after an answer."""


def main(
    url: str,
    images: Annotated[Path, typer.Argument(help="encoded images, an .npz of byte strings")],
    out: Path,
    seconds: float = 10.0,
    rate: Annotated[float, typer.Option(help="requests/s of an open loop, Poisson")] = 0.0,
    connections: Annotated[int, typer.Option(help="connections of a closed loop")] = 1,
    seed: int = 0,
) -> None:
    """Runs one load and writes its shots as JSON lines."""
    with np.load(images) as arrays:
        client = Client(url, [arrays[name].tobytes() for name in arrays.files])
    if rate:
        generator = np.random.default_rng(seed)
        gaps = generator.exponential(1 / rate, round(rate * seconds))
        uvloop.run(client.open_loop(gaps.cumsum().tolist()))
    else:
        uvloop.run(client.closed_loop(connections, seconds))
    with out.open("w") as file:
        file.writelines(json.dumps(asdict(shot)) + "\n" for shot in client.shots())


if __name__ == "__main__":
    typer.run(main)
