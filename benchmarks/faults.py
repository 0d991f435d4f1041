"""What can happen to a server that an alert must notice."""

import base64
import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.process import ROOT

MODEL = "cifar100-msdnet"
BUNDLE = ROOT / "models/zoo" / MODEL / "7"
PER_SECOND = 40
SLOW_CLIENTS, SLOW_S = 4, 2


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong for as long as its context lasts, and the alerts that must say so."""

    name: str
    alerts: set[str]
    made: Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Client:
    """Sends images to a server from threads of its own, not faster than it is told to."""

    url: str
    pngs: Sequence[bytes]

    @contextmanager
    def sending(
        self, *, threads: int = 1, images: int = 1, per_second: float = PER_SECOND, **said: object
    ) -> Iterator[None]:
        """Requests of some images each, with the parameters `said`, until the context ends."""
        with running(threads, lambda over: self._send(over, images, threads / per_second, said)):
            yield

    @contextmanager
    def sending_slowly(self) -> Iterator[None]:
        """What is usual, and beside it clients whose images take seconds to come."""
        with running(SLOW_CLIENTS, self._send_slowly), self.sending():
            yield

    def _send(
        self, over: threading.Event, images: int, pause_s: float, said: dict[str, object]
    ) -> None:
        endless = itertools.cycle(base64.b64encode(png).decode() for png in self.pngs)
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not over.wait(pause_s):
                body = {"images": list(itertools.islice(endless, images))} | said
                client.post("/v1/classify", json=body)

    def _send_slowly(self, over: threading.Event) -> None:
        def halves() -> Iterator[bytes]:
            yield self.pngs[0][:100]
            time.sleep(SLOW_S)
            yield self.pngs[0][100:]

        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not over.is_set():
                client.post("/v1/classify", content=halves(), headers={"content-type": "image/png"})


@contextmanager
def running(threads: int, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """So many threads that work until the event, which is when the context ends."""
    over = threading.Event()
    started = [threading.Thread(target=work, args=(over,)) for _ in range(threads)]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in started:
            thread.join()


def faults(client: Client, noise: Client, zoo: Path, pid: int) -> list[Fault]:
    """One after another; `noise` sends images that are none, and process `pid` can be broken."""
    tight_ms = 4 * time_to_last(client.url)
    burning = {"OfframpErrorBudgetBurnFast", "OfframpErrorBudgetBurnSlow"}
    return [
        Fault("every exit is run", {"OfframpEnergyHigh"}, lambda: client.sending(threshold=1)),
        Fault(
            "images are noise",
            {"OfframpExitMixDrift"},
            noise.sending,
        ),
        Fault(
            "exit 1 answers, however unsure",
            {"OfframpShadowAgreementLow"},
            lambda: client.sending(threshold=0),
        ),
        Fault(
            "deadlines of 0.1 ms",
            {"OfframpDeadlineMissesHigh"},
            lambda: client.sending(latency_budget_ms=0.1),
        ),
        Fault(
            f"load that budgets of {tight_ms:.0f} ms leave no time for",
            {"OfframpBrownOut"},
            lambda: client.sending(
                threads=4, images=4, per_second=200, threshold=1, latency_budget_ms=tight_ms
            ),
        ),
        Fault("slow clients", {"OfframpLatencyHigh"}, client.sending_slowly),
        Fault("a bad bundle", {"OfframpModelLoadFailed"}, lambda: bad_bundle(client.url, zoo)),
        Fault("a worker dies", {"OfframpWorkerRestarted"}, lambda: dead_worker(client, pid)),
        Fault("a segment fails", {"OfframpSegmentDisabled"}, lambda: failing_segment(client, pid)),
        Fault("segments leak", {"OfframpMemoryGrowth"}, lambda: leaking(client, pid)),
        Fault(
            "overload",
            {"OfframpQueueSaturated"} | burning,
            lambda: client.sending(threads=8, images=8, per_second=400, threshold=1),
        ),
    ]


def time_to_last(url: str) -> float:
    """Milliseconds that every exit of an image is expected to take."""
    (version,) = httpx.get(f"{url}/v1/models/{MODEL}").json()["versions"]
    exits: list[dict[str, Any]] = version["exits"]
    return float(exits[-1]["latency_ms"])


@contextmanager
def bad_bundle(url: str, zoo: Path) -> Iterator[None]:
    """Another version with one byte less, which the server is told to load."""
    path = zoo / MODEL / "4"
    shutil.copytree(BUNDLE, path)
    graph = path / "segment_1.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    said = httpx.post(f"{url}/v2/repository/models/{MODEL}/load")
    if said.is_success:
        raise RuntimeError("a bad bundle was loaded")
    yield
    shutil.rmtree(path)


@contextmanager
def dead_worker(client: Client, pid: int) -> Iterator[None]:
    """One worker thread ends in the middle of a batch."""
    os.kill(pid, signal.SIGUSR1)
    with client.sending():
        yield


@contextmanager
def failing_segment(client: Client, pid: int) -> Iterator[None]:
    """Every run of segment 2 fails, until the context ends."""
    os.kill(pid, signal.SIGUSR2)
    with client.sending(threshold=1):
        yield
    os.kill(pid, signal.SIGUSR2)


@contextmanager
def leaking(client: Client, pid: int) -> Iterator[None]:
    """Every run of a segment leaves memory behind, until the context ends."""
    os.kill(pid, signal.SIGRTMIN)
    with client.sending():
        yield
    os.kill(pid, signal.SIGRTMIN)
