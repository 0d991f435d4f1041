"""Background work at full load beside requests with a budget: do they notice, and what does it get?

    python -m benchmarks.background models/zoo/cifar100-msdnet/7 data/cifar100 --rate 200

Each round has three parts: an open loop of requests with a budget alone, a closed loop of requests
with `priority=background` alone, and both together. What was idle is the share of the time that
the server's cores did not work while the open loop was alone; background work could have had that
share of its own rate alone.
"""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Annotated

import typer

from benchmarks.loading import Traffic, traffic
from benchmarks.process import serving, totals
from load.generator import Shot
from load.outcomes import latency_ms
from models.bundle.profile import hardware

CPU = "process_cpu_seconds_total"
LEAD_S = 5
"""Background work goes on so much longer than the open loop, whose process needs time to start."""


@dataclass(frozen=True)
class Part:
    """What a part of a round gave: the open loop's answers, background answers per second beside
    it, and the share of the server's cores that worked."""

    shots: list[Shot]
    background_rate: float
    busy: float


@dataclass(frozen=True)
class Bench:
    """Two loads on one server; `base` is the route that both ask."""

    asked: Traffic
    url: str
    base: str
    rate: float
    budget_ms: float
    connections: int
    processes: int
    seconds: int

    def budgets(self) -> list[Shot]:
        url = f"{self.base}&latency_budget_ms={self.budget_ms:g}"
        return self.asked.load(url, rate=self.rate, seconds=self.seconds)

    def background(self, seconds: int) -> float:
        """Answers per second."""
        url = f"{self.base}&priority=background"
        return self.asked.closed_loop(url, self.connections, seconds).rate

    def alone(self) -> Part:
        before = totals(self.url, "")[CPU]
        shots = self.budgets()
        worked_s = totals(self.url, "")[CPU] - before
        return Part(shots, 0.0, worked_s / self.seconds / self.processes)

    def beside(self, full_rate: float) -> Part:
        """Before and after the open loop, background work has its rate alone."""
        before, total_s = totals(self.url, "")[CPU], self.seconds + LEAD_S
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.background, total_s)
            shots = self.budgets()
            num_answers = running.result() * total_s
        worked_s = totals(self.url, "")[CPU] - before
        rate = (num_answers - full_rate * LEAD_S) / self.seconds
        return Part(shots, rate, worked_s / total_s / self.processes)

    def late(self, part: Part) -> float:
        """Percent of the requests that were not answered in time, refused ones among them."""
        in_time = [
            shot.status == 200 and 1000 * shot.latency_s <= self.budget_ms for shot in part.shots
        ]
        return 100 - 100 * fmean(in_time)

    def row(self, background: str, part: Part) -> str:
        answered = [shot for shot in part.shots if shot.status == 200]
        cells = (
            background,
            f"{self.late(part):.2f}",
            f"{latency_ms(part.shots, 0.5):.2f}",
            f"{latency_ms(part.shots, 0.99):.2f}",
            f"{depth(part):.3f}",
            f"{100 * self.asked.accuracy(answered):.1f}",
            f"{part.background_rate:.1f}",
            f"{100 * part.busy:.0f}",
        )
        return f"| {' | '.join(cells)} |"


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle to serve.")],
    data: Annotated[str, typer.Argument(help="Data set whose test images are sent.")],
    rate: Annotated[float, typer.Option(help="Requests per second with a budget.")] = 200.0,
    budget_ms: Annotated[float, typer.Option(help="Their latency budget, milliseconds.")] = 25.0,
    connections: Annotated[int, typer.Option(help="Background requests at once.")] = 16,
    processes: Annotated[int, typer.Option(help="Server processes.")] = 1,
    seconds: Annotated[int, typer.Option(help="Length of each part.")] = 10,
    rounds: Annotated[int, typer.Option(help="Times that all parts are measured.")] = 5,
    images: Annotated[int, typer.Option(help="Test images to send.")] = 1000,
) -> None:
    """Prints a Markdown table, what changed, and the share of idle time that background got."""
    print(f"{bundle}, {rate:g} requests/s with {budget_ms:g} ms, {hardware()}\n")
    print("| background | late % | p50 ms | p99 ms | mean exit | top-1 % | background/s | busy % |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, images, Path(directory))
        with serving(bundle.parents[1], processes=processes, access_log=False) as server:
            base = f"{server.url}/v1/classify?model={bundle.parent.name}&version={bundle.name}"
            bench = Bench(asked, server.url, base, rate, budget_ms, connections, processes, seconds)
            measure(bench, rounds)


def measure(bench: Bench, rounds: int) -> None:
    alone, beside, shares = [], [], []
    bench.background(bench.seconds)  # warm
    for _ in range(rounds):
        alone.append(bench.alone())
        print(bench.row("none", alone[-1]), flush=True)
        full_rate = bench.background(bench.seconds)
        beside.append(bench.beside(full_rate))
        print(bench.row("full load", beside[-1]), flush=True)
        shares.append(beside[-1].background_rate / (full_rate * (1 - alone[-1].busy)))
        print(f"| alone | | | | | | {full_rate:.1f} | |", flush=True)
    print()
    print(change("late %", bench.late, alone, beside))
    print(change("mean exit", depth, alone, beside))
    print(f"background work got {median(shares):.2f} of what was idle, by round: ", end="")
    print(", ".join(f"{share:.2f}" for share in shares))


def depth(part: Part) -> float:
    """The mean exit of the answers."""
    return fmean(shot.answer["exit"] for shot in part.shots if shot.status == 200)


def change(
    name: str, measure: Callable[[Part], float], alone: Sequence[Part], beside: Sequence[Part]
) -> str:
    """The medians, and how much the runs alone differ."""
    values = [measure(part) for part in alone]
    first, second = median(values), median(map(measure, beside))
    spread = max(values) - min(values)
    return f"{name}: {first:.3f} alone, {second:.3f} beside; run to run {spread:.3f}"


if __name__ == "__main__":
    typer.run(main)
