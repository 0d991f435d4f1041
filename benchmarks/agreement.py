"""What `offramp simulate` foretells beside what the server then does, at three loads.

    python -m benchmarks.agreement models/zoo/cifar100-msdnet/3 DATA

The load generator has a core of its own, the last one, and the server the others. The loads are
shares of what it answers over 32 connections to requests without a budget.
The time of its Python is measured at the second of them: a request's is that of the main thread, a
batch's what the workers spend beyond their graphs. Latencies are the client's.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
import typer

from benchmarks.load import Shot
from benchmarks.loading import Traffic, traffic
from benchmarks.outcomes import exit_shares
from benchmarks.process import ServerProcess, serving, totals
from models.bundle.policy import policy_at
from models.bundle.profile import hardware
from server.engine.job import Budget
from server.planning.plan import Plan, poisson, simulate
from server.planning.simulation import Python
from server.settings import load_settings
from server.zoo.catalog import ServedModel, serve_bundle

ROUTE = "/v1/classify"
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
        with serving(path.parent.parent, access_log=False) as server:
            os.sched_setaffinity(0, {client_core})  # also of the load, not of the server
            query = f"model={path.parent.name}&version={path.name}&operating_point={point}"
            unhurried = f"{server.url}{ROUTE}?{query}"
            url = f"{unhurried}&latency_budget_ms={budget_ms:g}"
            asked.load(unhurried, connections=32, seconds=3)
            capacity = len(asked.load(unhurried, connections=32, seconds=seconds)) / seconds
            before = used(server, model)
            asked.load(url, rate=SHARES[1] * capacity, seconds=seconds)
            request_s, batch_s = used(server, model) - before
            policy = policy_at(model.operating_points[point])
            plan = Plan(
                policy,
                Budget(budget_ms / 1000),
                workers=len(server_cores),
                cores=len(server_cores),
                max_in_flight=settings.max_in_flight,
                python=Python(request_s, batch_s),
            )
            print(
                f"`{point}` of {path}, {budget_ms:g} ms, {where}, {plan.cores} of them for "
                f"the server; capacity {capacity:.0f}/s;"
            )
            print(f"Python {1e3 * request_s:.2f} ms a request, {1e3 * batch_s:.2f} ms a batch;")
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
    """Core seconds of Python so far: the main thread's for requests, the others' for batches."""

    requests_s: float
    num_requests: float
    batches_s: float
    num_batches: float

    def __sub__(self, before: "Used") -> tuple[float, float]:
        """Seconds for each request and for each batch since then."""
        return (
            (self.requests_s - before.requests_s) / (self.num_requests - before.num_requests),
            (self.batches_s - before.batches_s) / (self.num_batches - before.num_batches),
        )


def used(server: ServerProcess, model: ServedModel) -> Used:
    found = totals(server.url, ROUTE)
    pid = server.process.pid
    main_s = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9
    graphs_s = found["offramp_energy_joules_total"] / model.profile.watts
    return Used(
        requests_s=main_s,
        num_requests=found["offramp_requests_total"],
        batches_s=found["process_cpu_seconds_total"] - main_s - graphs_s,
        num_batches=found["offramp_batch_rows_count"],
    )


def figures(asked: Traffic, shots: Sequence[Shot], seconds: float, budget_ms: float) -> Figures:
    latencies = [1000 * shot.latency_s for shot in shots if shot.status == 200]
    p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist()
    goodput = sum(latency <= budget_ms for latency in latencies) / seconds
    return Figures(goodput, p50, p99, asked.accuracy(shots))


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
