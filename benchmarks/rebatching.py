"""The earliest due job decides, against whole batches, on the same engine, A B A B.

    python -m benchmarks.rebatching models/zoo/cifar100-msdnet/7 DATA

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

from load.generator import poisson
from models.bundle.policy import policy_at
from models.bundle.profile import hardware
from server.engine.admission import Admission
from server.engine.engine import Engine
from server.engine.job import Budget, Demand, Given, Job, Outcome
from server.engine.model import ServedModel
from server.engine.queues import Kind
from server.engine.scheduler import Batch, Scheduler
from server.errors import Overloaded
from server.settings import load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import serve_bundle
from training.data import open_images

OUTSTANDING = 32
Latencies = tuple[NDArray[np.float64], float]
"""Seconds per image, and the mean exit of those answered."""
LOADS = (0.5, 0.8, 1.0, 1.5)
"""Open-loop rates, in shares of what whole batches give in the closed loop."""
MAX_IN_FLIGHT = 4096
STALL_S = 10.0


class Whole(Scheduler):
    """Survivors of a batch go on together before anything else, and newcomers never join them.

    A row that stops is answered at once. Where lanes are threads, survivors of two batches that
    meet at a segment go on as one.
    """

    def next_batch(self, now: float) -> Batch | None:
        has_lane = len(self._running) < self.num_lanes
        survivors = [
            queue
            for queue in self._queues
            if queue.kind is Kind.BETTER or queue.step.exit > 1 or queue.step.is_head
        ]
        ready = [queue for queue in survivors if has_lane or queue.step.inline_rows]
        if not ready:
            return super().next_batch(now)
        queue = min(ready, key=lambda each: each.places[0])
        step = queue.step
        jobs = self._queues.take(queue, step.inline_rows or step.costs.max_rows)
        batch = Batch(step, jobs, now, now + step.seconds(len(jobs)), self.first_s())
        batch.expires_at = min((job.due for job in jobs if job.answers), default=inf)
        batch.is_inline = step.inline_rows > 0
        self._running.add(batch)
        return batch


class WholeBatches(Engine):
    """The same engine with the same admission: only what runs next is decided otherwise."""

    def __init__(self, num_lanes: int, max_in_flight: int, counts: Metrics) -> None:
        super().__init__(num_lanes, max_in_flight, STALL_S, 0.0, counts)
        self._scheduler = Whole(num_lanes, self.pace)
        self.admission = Admission(max_in_flight, self._scheduler)


def re_forming(num_lanes: int, max_in_flight: int, counts: Metrics) -> Engine:
    return Engine(num_lanes, max_in_flight, STALL_S, 0.0, counts)


class Arm:
    """One kind of engine, and the latencies it gave."""

    def __init__(
        self,
        start: Callable[[int, int, Metrics], Engine],
        model: ServedModel,
        images: NDArray[np.uint8],
        point: str,
    ) -> None:
        self.start, self.model = start, model
        self.policy = policy_at(model.operating_points[point])
        self.images = itertools.cycle(images)

    def engine(self, lanes: int) -> Engine:
        return self.start(lanes, MAX_IN_FLIGHT, Metrics())

    def submit(
        self,
        engine: Engine,
        deliver: Callable[[Outcome | Exception], object],
        budget_s: float | None = None,
    ) -> None:
        demand = Demand(self.model, self.policy, Budget(budget_s), time.monotonic())
        slots = engine.admit(demand, 1)
        engine.submit(slots, [Job(demand, Given.of(next(self.images)), deliver)])

    async def closed_loop(self, lanes: int, seconds: float) -> float:
        """Images per second with `OUTSTANDING` of them always under way."""
        engine, num_done = self.engine(lanes), 0
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
        self, lanes: int, seconds: float, rate: float, budget_s: float
    ) -> Latencies:
        """Seconds that images took that arrived at random, infinite where one was refused."""
        engine, latencies, exits = self.engine(lanes), list[float](), list[int]()
        start, arrivals = time.monotonic(), poisson(rate, seconds, seed=0)

        def answered(due: float, outcome: Outcome | Exception) -> None:
            assert isinstance(outcome, Outcome)
            latencies.append(time.monotonic() - due)
            exits.append(outcome.answer.exit)

        for due in (start + at_s for at_s in arrivals):
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            try:
                self.submit(engine, partial(answered, due), budget_s)
            except Overloaded:
                latencies.append(inf)
        while len(latencies) < len(arrivals):
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
    model, lanes = serve_bundle(path.resolve(), settings), settings.cores.workers
    images = open_images(data, "test").take(np.arange(1000)).images.numpy()
    arms = {
        "earliest due first": Arm(re_forming, model, images, point),
        "whole": Arm(WholeBatches, model, images, point),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    runs: dict[tuple[str, float], list[Latencies]] = {}
    for number in tqdm(range(rounds + 1), unit="round"):
        for name, arm in arms.items():
            rate = asyncio.run(arm.closed_loop(lanes, seconds))
            if number > 0:  # the first one warms up
                rates[name].append(rate)
        for load, (name, arm) in itertools.product(LOADS if number else (), arms.items()):
            offered = load * median(rates["whole"])
            found = asyncio.run(arm.open_loop(lanes, seconds, offered, budget_ms / 1000))
            runs.setdefault((name, load), []).append(found)
    print(f"`{point}` of {path}, {lanes} lanes, {rounds} rounds, {hardware()}\n")
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
