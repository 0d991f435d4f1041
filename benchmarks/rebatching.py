"""Batches that re-form at every exit against whole ones, on the same engine, A B A B.

    python -m benchmarks.rebatching models/zoo/cifar100-msdnet/3 DATA

Without HTTP: decoded images are submitted to an engine in this process. A closed loop without
budgets for the rate, then an open loop (Poisson) with one, both arms at the same rates.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path
from statistics import fmean, median
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from tqdm import tqdm

from models.bundle.policy import policy_at
from models.bundle.profile import hardware
from server.engine.engine import Engine
from server.engine.job import Budget, Demand, Job, Outcome
from server.engine.queues import Step
from server.engine.scheduler import Batch, Scheduler
from server.engine.shadow import Shadows
from server.engine.verdict import Verdict
from server.engine.worker import Worker
from server.errors import Overloaded
from server.settings import load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import ServedModel, serve_bundle
from training.data import open_images

OUTSTANDING = 32
Latencies = tuple[NDArray[np.float64], float]
"""Seconds per image, and the mean exit of those answered."""
LOADS = (0.5, 0.8, 1.0, 1.5)
"""Open-loop rates, in shares of what whole batches give in the closed loop."""


class WholeBatches(Engine):
    """A batch goes on with whoever is left, and answers when its last member does."""

    def _run(self, worker: Worker, batch: Batch) -> Verdict | None:
        whole, handed_out = Verdict(), batch
        while (verdict := super()._run(worker, batch)) is not None:
            if batch is not handed_out:
                handed_out.core_s += batch.core_s  # or it would be taken for overhead
            whole.ended.extend(verdict.ended)
            if not verdict.going_on:
                return whole
            step = Step(batch.step.model, batch.step.exit + 1)
            for job in verdict.going_on:
                job.waiting_since = time.monotonic()
            batch = Batch(step, verdict.going_on, time.monotonic(), batch.ends_at)
        return None


class Arm:
    """One kind of engine, and the latencies it gave."""

    def __init__(
        self, kind: type[Engine], model: ServedModel, images: NDArray[np.uint8], point: str
    ) -> None:
        self.kind, self.model = kind, model
        self.policy = policy_at(model.operating_points[point])
        self.images = itertools.cycle(images)

    def engine(self, workers: int) -> Engine:
        metrics = Metrics()
        return self.kind(Scheduler(4096, workers), metrics, Shadows(0, metrics), stall_s=10)

    def submit(
        self,
        engine: Engine,
        deliver: Callable[[Outcome | Exception], object],
        budget_s: float | None = None,
    ) -> None:
        demand = Demand(self.model, self.policy, Budget(budget_s), time.monotonic())
        engine.submit([Job(demand, next(self.images), deliver)])

    async def closed_loop(self, workers: int, seconds: float) -> float:
        """Images per second with `OUTSTANDING` of them always under way."""
        engine, num_done = self.engine(workers), 0
        end = time.monotonic() + seconds
        under_way = asyncio.Semaphore(0)

        def answered(_: object) -> None:
            nonlocal num_done
            num_done += 1
            if time.monotonic() < end:
                self.submit(engine, answered)
            else:
                under_way.release()

        for _ in range(OUTSTANDING):
            self.submit(engine, answered)
        for _ in range(OUTSTANDING):
            await under_way.acquire()
        engine.stop()
        return num_done / seconds

    async def open_loop(
        self, workers: int, seconds: float, rate: float, budget_s: float
    ) -> Latencies:
        """Seconds that images took that arrived at random, infinite where one was refused."""
        engine, latencies, exits = self.engine(workers), list[float](), list[int]()
        gaps = np.random.default_rng(0).exponential(1 / rate, round(rate * seconds))
        start = time.monotonic()

        def answered(due: float, outcome: Outcome | Exception) -> None:
            assert isinstance(outcome, Outcome)
            latencies.append(time.monotonic() - due)
            exits.append(outcome.answer.exit)

        for due in (start + gaps.cumsum()).tolist():
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            try:
                self.submit(engine, partial(answered, due), budget_s)
            except Overloaded:
                latencies.append(inf)
        while len(latencies) < len(gaps):
            await asyncio.sleep(0.01)
        engine.stop()
        return np.array(latencies), fmean(exits)


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: str,
    point: str = "balanced",
    rounds: int = 5,
    seconds: float = 5.0,
    budget_ms: float = 25.0,
) -> None:
    """Prints a Markdown table: medians over the rounds, and the smallest and largest."""
    settings = load_settings()
    model, workers = serve_bundle(path.resolve(), settings), settings.workers
    images = open_images(data, "test").take(np.arange(1000)).images.numpy()
    arms = {
        "re-formed at every exit": Arm(Engine, model, images, point),
        "whole": Arm(WholeBatches, model, images, point),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    runs: dict[tuple[str, float], list[Latencies]] = {}
    for number in tqdm(range(rounds + 1), unit="round"):
        for name, arm in arms.items():
            rate = asyncio.run(arm.closed_loop(workers, seconds))
            if number > 0:  # the first one warms up
                rates[name].append(rate)
        for load, (name, arm) in itertools.product(LOADS if number else (), arms.items()):
            offered = load * median(rates["whole"])
            found = asyncio.run(arm.open_loop(workers, seconds, offered, budget_ms / 1000))
            runs.setdefault((name, load), []).append(found)
    print(f"`{point}` of {path}, {workers} workers, {rounds} rounds, {hardware()}\n")
    print("| batches | images/s, 32 outstanding |")
    print("|---|---|")
    for name, found_rates in rates.items():
        print(f"| {name} | {spread(found_rates)} |")
    print(f"\n| batches | load | within {budget_ms:g} ms, % | p50 ms | p99 ms | mean exit |")
    print("|---|---|---|---|---|---|")
    for (name, load), found_runs in runs.items():
        all_ms = [1000 * latencies for latencies, _ in found_runs]
        in_time = [100 * float((ms <= budget_ms).mean()) for ms in all_ms]
        p50, p99 = ([float(np.quantile(ms[ms < inf], q)) for ms in all_ms] for q in (0.5, 0.99))
        cells = (spread(in_time, 1), spread(p50, 2), spread(p99, 2))
        exits = spread([exit for _, exit in found_runs], 2)
        print(
            f"| {name} | {load:g} x {median(rates['whole']):.0f} | {' | '.join(cells)} | {exits} |"
        )


def spread(values: list[float], digits: int = 0) -> str:
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    typer.run(main)
