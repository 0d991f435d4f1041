"""Many mixed requests: answered, streamed, abandoned and bad ones; memory and metrics at the end.

python -m benchmarks.soak models/zoo --requests 200000
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from PIL import Image

from benchmarks.fuzz import encoded
from benchmarks.process import ServerProcess, resident_mib, serving
from models.bundle.profile import hardware

WARM_UP = 0.1
"""The share of the requests after which memory must have stopped growing."""
MAX_GROWTH = 0.05
SAMPLE = re.compile(r"^offramp_(\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
PNGS = [encoded(Image.fromarray(pixels), "PNG") for pixels in PIXELS]
CLASSIFY = "/v1/classify?model=cifar100-msdnet"
QUERIES = (
    "",
    "&latency_budget_ms=5",
    "&latency_budget_ms=20&energy_budget_mj=5",
    "&operating_point=fast&top_k=5",
    "&threshold=1&trace=true",
    "&threshold=0.7&max_exit=2",
    "&latency_budget_ms=0.01",
)
BAD: tuple[tuple[str, bytes, str], ...] = (
    ("", b"no image", "image/png"),
    ("", PNGS[0][:99], "image/png"),
    ("&top_k=0", PNGS[0], "image/png"),
    ("&version=99", PNGS[0], "image/png"),
    ("", b'{"images": [', "application/json"),
    ("", b"[" * 10_000, "application/json"),
    ("", b"GIF89a", "image/gif"),
    ("&strict=true&latency_budget_ms=0.001", PNGS[0], "image/png"),
)


class Client:
    """Sends requests, and counts what it knows of them."""

    def __init__(self, http: httpx.AsyncClient, seed: int) -> None:
        self.http, self.random = http, random.Random(seed)
        self.codes: Counter[str] = Counter()
        self.num_answered = self.num_left = 0

    async def send(self) -> None:
        act = self.random.choices((self.ask, self.stream, self.leave, self.fail), (60, 10, 15, 15))
        await act[0]()

    async def ask(self) -> None:
        path = CLASSIFY + self.random.choice(QUERIES)
        if self.random.random() < 0.2:
            images = self.random.choices(PNGS, k=self.random.randint(2, 8))
            said = await self.http.post(path, files=[("image", image) for image in images])
            self._count(said, len(images))
        else:
            self._count(await self._post(path, self.random.choice(PNGS)), 1)

    async def stream(self) -> None:
        said = await self._post(f"{CLASSIFY}&threshold=1", PNGS[0], accept="text/event-stream")
        assert said.status_code != 200 or "event: final" in said.text
        self._count(said, 1)

    async def leave(self) -> None:
        """Sends a request, or some of it, and closes the connection before the answer."""
        url, body = self.http.base_url, self.random.choice(PNGS)
        _, writer = await asyncio.open_connection(url.host, url.port)
        accept = self.random.choice(("*/*", "text/event-stream"))
        writer.write(
            f"POST {CLASSIFY}&threshold=1 HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            f"Accept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        writer.write(body[: self.random.choice((len(body), len(body) // 2))])
        await writer.drain()
        await asyncio.sleep(self.random.choice((0, 0.001, 0.003)))
        writer.transport.abort()
        self.num_left += 1

    async def fail(self) -> None:
        query, body, media_type = self.random.choice(BAD)
        said = await self._post(CLASSIFY + query, body, media_type)
        assert 400 <= said.status_code < 500 or said.status_code == 503
        self._count(said, 0)

    async def _post(
        self, path: str, body: bytes, media_type: str = "image/png", accept: str = "*/*"
    ) -> httpx.Response:
        headers = {"content-type": media_type, "accept": accept}
        return await self.http.post(path, content=body, headers=headers)

    def _count(self, said: httpx.Response, num_images: int) -> None:
        self.codes[str(said.status_code)] += 1
        self.num_answered += num_images if said.status_code == 200 else 0


def main(
    zoo: Annotated[Path, typer.Argument(help="Bundles to serve.")],
    requests: int = 200_000,
    clients: int = 16,
) -> None:
    """Fails where memory grew by more than 5% after warm-up, or a request is unaccounted for."""
    with serving(zoo) as server:
        asyncio.run(soak(server, requests, clients))


async def soak(server: ServerProcess, num_requests: int, num_clients: int) -> None:
    limits = httpx.Limits(max_connections=num_clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http:
        clients = [Client(http, seed) for seed in range(num_clients)]
        num_warm = int(WARM_UP * num_requests) // num_clients
        await together(clients, lambda client: repeat(client, num_warm))
        warm = resident_mib(server.process.pid)
        num_rest = num_requests // num_clients - num_warm
        await together(clients, lambda client: repeat(client, num_rest))
        await settled(http)
        end = resident_mib(server.process.pid)
        complaints = unaccounted(clients, samples((await http.get("/metrics")).text))
    growth = end / warm - 1
    print(f"{hardware()}: {num_requests} requests, {sum(c.num_left for c in clients)} abandoned")
    print(f"resident {warm:.1f} MiB after warm-up, {end:.1f} MiB at the end ({growth:+.1%})")
    if growth > MAX_GROWTH:
        complaints.append(f"memory grew by {growth:.1%}")
    if complaints:
        raise SystemExit("\n".join(complaints))


async def together(clients: list[Client], act: Callable[[Client], Awaitable[None]]) -> None:
    await asyncio.gather(*map(act, clients))


async def repeat(client: Client, times: int) -> None:
    for _ in range(times):
        await client.send()


async def settled(http: httpx.AsyncClient) -> None:
    """Waits until the server has noticed that the last clients left."""
    while "\nofframp_in_flight 0.0" not in (await http.get("/metrics")).text:
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)


def unaccounted(clients: list[Client], said: dict[tuple[str, str], float]) -> list[str]:
    """Differences between the server's counts and the clients'.

    A request whose client left may be missing in either.
    """

    def total(name: str, label: str = "") -> int:
        return int(
            sum(value for (n, labels), value in said.items() if n == name and label in labels)
        )

    codes = sum((client.codes for client in clients), Counter[str]())
    num_left = sum(client.num_left for client in clients)
    num_answered = sum(client.num_answered for client in clients)
    route = 'route="/v1/classify"'
    counted = {c: total("requests_total", f'code="{c}",{route}') for c in (*codes, "499")}
    answered, cancelled, failed = (
        total("inferences_total", f'outcome="{o}"') for o in ("answered", "cancelled", "failed")
    )
    print(f"clients: {dict(codes)}, {num_left} left")
    print(f"images: {answered} answered, {cancelled} cancelled, {failed} failed")
    checks = {
        "every request has one status": total("requests_total", route) == codes.total() + num_left,
        "whoever stayed got what was counted": all(
            counted[code] == num for code, num in codes.items() if code != "200"
        ),
        "whoever left is counted once": counted["499"] == total("cancelled_total"),
        "no more left than did": counted["499"] <= num_left,
        "every answer was counted": num_answered <= answered <= num_answered + num_left,
        "no image is in two places": answered + cancelled <= num_answered + num_left,
        "nothing failed": failed == 0,
        "nothing is left": total("in_flight") == total("queue_depth") == 0,
        "answers and exits agree": answered == total("exits_total"),
    }
    return [name for name, holds in checks.items() if not holds]


def samples(text: str) -> dict[tuple[str, str], float]:
    return {(name, labels): float(value) for name, labels, value in SAMPLE.findall(text)}


if __name__ == "__main__":
    typer.run(main)
