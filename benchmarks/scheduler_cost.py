"""Microseconds of one decision of the scheduler, by how many jobs wait.

python -m benchmarks.scheduler_cost models/zoo/cifar100-msdnet/7
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Annotated, TypeVar

import numpy as np
import typer

from models.bundle.policy import policy_of_threshold
from models.bundle.profile import hardware
from server.engine.admission import Admission
from server.engine.job import Answer, Budget, Demand, Given, Job
from server.engine.model import ServedModel
from server.engine.scheduler import Scheduler
from server.settings import load_settings
from server.zoo.catalog import serve_bundle

Result = TypeVar("Result")
WAITING = (10, 100, 1000, 10_000)
DECISIONS = 500
NOTHING = Given([], 0)
UNSURE = np.zeros(0, np.float32)


def main(path: Annotated[Path, typer.Argument(help="A bundle.")]) -> None:
    """Prints a Markdown table."""
    model = serve_bundle(path.resolve(), load_settings())
    print(f"Median (95th percentile) of {DECISIONS} decisions, in microseconds, {hardware()}\n")
    print("| jobs waiting | pick a batch | admit a newcomer | put a job back | find overdue jobs |")
    print("|---|---|---|---|---|")
    for num_waiting in WAITING:
        cells = [
            f"{median(t):.1f} ({quantiles(t, n=20)[-1]:.1f})" for t in time(model, num_waiting)
        ]
        print(f"| {num_waiting:,} | {' | '.join(cells)} |")


def time(model: ServedModel, num_waiting: int) -> list[list[float]]:
    """Microseconds of each kind of decision, jobs waiting at every exit with random deadlines."""
    scheduler = Scheduler(num_lanes=2)
    admission = Admission(2 * num_waiting, scheduler)
    generator = random.Random(0)
    num_exits = model.manifest.num_exits
    for _ in range(num_waiting):
        job = new_job(model)
        job.due, job.exit = generator.uniform(10, 100), generator.randrange(num_exits)
        if job.exit:
            job.answers.append(Answer(job.exit, UNSURE, 0.5, 0.0))
        admission.in_flight += 1
        scheduler.wait(job, 0.0)
    times: list[list[float]] = [[], [], [], []]
    picks, admissions, returns, expiries = times
    for _ in range(DECISIONS):
        batch = timed(picks, partial(scheduler.next_batch, 0.0))
        assert batch is not None
        scheduler.done(batch)
        for job in batch.jobs:
            timed(returns, partial(scheduler.wait, job, 0.0))
        timed(expiries, partial(scheduler.expire, 0.0))
        slots = timed(admissions, partial(admission.admit, new_job(model).demand, 1, 9.5))
        admission.decoded(slots)
        admission.free(slots.demand, 1)
    return times


def new_job(model: ServedModel) -> Job:
    policy = policy_of_threshold(1.0, model.manifest.num_exits)
    return Job(Demand(model, policy, Budget(100.0), 9.5), NOTHING, lambda _: None)


def timed(times: list[float], decide: Callable[[], Result]) -> Result:
    start = perf_counter()
    result = decide()
    times.append(1e6 * (perf_counter() - start))
    return result


if __name__ == "__main__":
    typer.run(main)
