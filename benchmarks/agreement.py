"""What `offramp simulate` predicts beside what the server then does, at three loads.

    python -m benchmarks.agreement models/zoo/cifar100-msdnet/7 DATA

The load generator has a core of its own, the last one, and the server the others, with a process on
each. The loads are shares of what it answers over 32 connections to requests without a budget.
What its Python takes is measured at the first and the last of them: a time per request and one per
batch that make up what the processes spend beyond their graphs. Latencies are the client's.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
import typer
from scipy.optimize import nnls

from benchmarks.loading import Traffic, traffic
from benchmarks.process import ServerProcess, serving, totals
from load.generator import Shot
from load.target import ROUTE
from models.bundle.policy import policy_at
from models.bundle.profile import hardware
from server.engine.job import Budget
from server.engine.model import ServedModel
from server.planning.plan import Plan, poisson, simulate
from server.planning.simulation import Python
from server.settings import load_settings
from server.zoo.catalog import serve_bundle

SHARES = (0.3, 0.6, 0.9)
NUM_SIMULATED = 20_000
ROUNDS = 3


@dataclass(frozen=True)
class Figures:
    """Of one load, simulated or served."""

    goodput: float
    p50_ms: float
    p99_ms: float
    accuracy: float


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: str,
    budget_ms: float = 25.0,
    point: str = "balanced",
    seconds: float = 10.0,
    images: int = 1000,
) -> None:
    """Prints a Markdown table, two lines for each load."""
    where = hardware()
    *server_cores, client_core = sorted(os.sched_getaffinity(0))
    if not server_cores:
        raise typer.BadParameter("one core is not enough for a server and its load")
    os.sched_setaffinity(0, server_cores)
    settings = load_settings()
    model = serve_bundle(path.resolve(), settings)
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, images, Path(directory))
        processes = len(server_cores)
        with serving(path.parent.parent, processes=processes, access_log=False) as server:
            os.sched_setaffinity(0, {client_core})  # also of the load, not of the server
            query = f"model={path.parent.name}&version={path.name}&operating_point={point}"
            unhurried = f"{server.url}{ROUTE}?{query}"
            url = f"{unhurried}&latency_budget_ms={budget_ms:g}"
            asked.load(unhurried, connections=32, seconds=3)
            capacity = len(asked.load(unhurried, connections=32, seconds=seconds)) / seconds
            python = python_of(
                [
                    spent(
                        server,
                        model,
                        partial(asked.load, url, rate=share * capacity, seconds=seconds),
                    )
                    for share in (SHARES[0], SHARES[-1])
                ]
            )
            policy = policy_at(model.operating_points[point])
            plan = Plan(
                policy,
                Budget(budget_ms / 1000),
                processes=processes,
                lanes=1,
                max_in_flight=settings.limits.max_in_flight,
                python=python,
            )
            print(
                f"`{point}` of {path}, {budget_ms:g} ms, {where}, {processes} of them for "
                f"the server; capacity {capacity:.0f}/s;"
            )
            print(f"Python {1e3 * python.request_s:.2f} ms a request,", end=" ")
            print(f"{1e3 * python.batch_s:.2f} ms a batch;")
            print(f"{ROUNDS} rounds of {seconds:g} s, mean (lowest to highest)\n")
            print("| requests/s | | good/s | p50 ms | p99 ms | top-1 % | per exit % |")
            print("|---|---|---|---|---|---|---|")
            for rate in (share * capacity for share in SHARES):
                arrivals = poisson(rate, NUM_SIMULATED, np.random.default_rng(0))
                load = simulate(model, plan, arrivals, 0)
                exits = " ".join(f"{100 * share:.0f}" for share in load.exit_shares)
                foretold = Figures(load.goodput, 1e3 * load.p50_s, 1e3 * load.p99_s, load.accuracy)
                print(f"| {rate:.0f} | simulated | {cells([foretold])} | {exits} |")
                rounds = [
                    asked.load(url, rate=rate, seconds=seconds, seed=seed) for seed in range(ROUNDS)
                ]
                found = [figures(asked, shots, seconds, budget_ms) for shots in rounds]
                exits = exit_shares([s for shots in rounds for s in shots if s.status == 200])
                print(f"| {rate:.0f} | served | {cells(found)} | {exits} |")


@dataclass(frozen=True)
class Used:
    """What the processes have used so far beyond their graphs, and what for."""

    python_s: float
    num_requests: float
    num_batches: float

    def __sub__(self, before: "Used") -> "Used":
        return Used(
            self.python_s - before.python_s,
            self.num_requests - before.num_requests,
            self.num_batches - before.num_batches,
        )


def used(server: ServerProcess, model: ServedModel) -> Used:
    found = totals(server.url, ROUTE)
    graphs_s = found["offramp_energy_joules_total"] / model.profile.watts
    return Used(
        python_s=found["process_cpu_seconds_total"] - graphs_s,
        num_requests=found["offramp_requests_total"],
        num_batches=found["offramp_batch_rows_count"],
    )


def spent(server: ServerProcess, model: ServedModel, load: Callable[[], object]) -> Used:
    before = used(server, model)
    load()
    return used(server, model) - before


def python_of(runs: Sequence[Used]) -> Python:
    """The times of a request and of a batch that explain the runs best; none is negative."""
    counts = np.array([[run.num_requests, run.num_batches] for run in runs])
    (request_s, batch_s), _ = nnls(counts, np.array([run.python_s for run in runs]))
    return Python(float(request_s), float(batch_s))


def figures(asked: Traffic, shots: Sequence[Shot], seconds: float, budget_ms: float) -> Figures:
    latencies = [1000 * shot.latency_s for shot in shots if shot.status == 200]
    p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist()
    goodput = sum(latency <= budget_ms for latency in latencies) / seconds
    return Figures(goodput, p50, p99, asked.accuracy(shots))


def exit_shares(answered: Sequence[Shot]) -> str:
    """Per cent of the answers at each exit."""
    exits = Counter(shot.answer["exit"] for shot in answered)
    num_exits = answered[0].answer["num_exits"]
    return " ".join(f"{100 * exits[k] / len(answered):.0f}" for k in range(1, num_exits + 1))


def cells(found: Sequence[Figures]) -> str:
    return " | ".join(
        (
            spread([f.goodput for f in found], 0),
            spread([f.p50_ms for f in found], 2),
            spread([f.p99_ms for f in found], 2),
            spread([100 * f.accuracy for f in found], 1),
        )
    )


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the extremes where there are several."""
    mean = f"{fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    typer.run(main)
