"""A load generator in a process of its own: open loop at a rate, or closed loop over connections.

    python -m benchmarks.load URL IMAGES.npz OUT.json --rate 500 --seconds 10

Every answer is kept as it came and read only after the run. In an open loop requests are sent when
they are due, on an idle connection or a new one, however late the server is with those before:
latency counts from the instant a request was due.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
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
        self.answered: asyncio.Future[tuple[int, bytes]] | None = None
        self._new_answer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's own kind

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answered

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        result = self._parser.get_status_code(), self._body
        self._new_answer()
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(result)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_result((0, str(exc).encode()))

    def _new_answer(self) -> None:
        self._parser, self._body = httptools.HttpResponseParser(self), b""


class Client:
    """Sends images to one route over as many connections as are needed."""

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
        self._seen: list[tuple[int, float, float, float, int, bytes]] = []
        self.start = 0.0

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port)
        return connection

    async def shoot(self, index: int, due_s: float) -> None:
        """Sends one request now, and notes what becomes of it."""
        image = index % len(self._requests)
        status, body, sent_s = 0, b"", self.now()
        try:
            connection = self._alive() or await self.connect()
            status, body = await connection.ask(self._requests[image])
            if status:
                self._idle.append(connection)
        except OSError as error:
            body = str(error).encode()
        finally:  # also where it was waited for too long
            self._seen.append((image, due_s, sent_s, self.now(), status, body))

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
        tasks = set()
        for index, due_s in enumerate(due):
            if (wait_s := due_s - self.now()) > 0:
                await asyncio.sleep(wait_s)
            tasks.add(asyncio.ensure_future(self.shoot(index, due_s)))
        _, late = await asyncio.wait(tasks, timeout=LAST_ANSWERS_S)
        for task in late:
            task.cancel()

    async def closed_loop(self, connections: int, seconds: float) -> None:
        """Each connection sends its next request as soon as it has its answer."""
        self.start = time.monotonic()
        indices = count()

        async def repeat() -> None:
            while (now := self.now()) < seconds:
                await self.shoot(next(indices), now)

        await asyncio.gather(*(repeat() for _ in range(connections)))

    def shots(self) -> Iterator[Shot]:
        for image, due_s, sent_s, done_s, status, body in self._seen:
            answer = json.loads(body) if status == 200 else {}
            yield Shot(image, due_s, sent_s, done_s, status, answer)


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
