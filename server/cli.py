"""`offramp profile` and `simulate`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from models.bundle.bundle import load_bundle
from models.bundle.cost_profile import GraphCosts
from models.bundle.errors import UserError
from models.bundle.policy import policy_at
from models.bundle.profile import RUNS, measure
from models.bundle.runner import SegmentRunner
from server.engine.job import Budget
from server.planning import plan as plans
from server.planning.plan import ARRIVALS, Plan, markdown, recorded
from server.planning.simulation import Python
from server.processes.choice import is_short
from server.settings import NUM_CORES, load_settings
from server.zoo.catalog import serve_bundle


def simulate(
    path: Path,
    rates: Sequence[float],
    latency_budget_ms: float | None,
    operating_point: str,
    processes: int | None,
    lanes: int | None,
    arrivals: str,
    num_requests: int,
    request_python_ms: float,
    batch_python_ms: float,
) -> None:
    """Profiles a bundle here, then simulates each rate of requests and prints a table."""
    settings = load_settings()
    model = serve_bundle(path.resolve(), settings)
    if operating_point not in model.operating_points:
        known = ", ".join(model.operating_points)
        raise UserError(f"no operating point {operating_point!r}; there are {known}")
    wanted = processes or settings.cores.processes
    num_processes = wanted or (NUM_CORES if is_short(model.profile) else 1)
    plan = Plan(
        policy=policy_at(model.operating_points[operating_point]),
        budget=Budget(None if latency_budget_ms is None else latency_budget_ms / 1000),
        processes=num_processes,
        lanes=lanes or max(1, NUM_CORES // num_processes),
        max_in_flight=settings.limits.max_in_flight,
        python=Python(request_python_ms / 1000, batch_python_ms / 1000),
    )
    print(f"{path}, {plan.processes} processes of {plan.lanes} lanes; {model.profile.hardware}\n")
    generator = np.random.default_rng(0)
    made = (
        ARRIVALS[arrivals](rate, num_requests, generator)
        if arrivals in ARRIVALS
        else recorded(Path(arrivals), rate)
        for rate in rates
    )
    for line in markdown(plans.simulate(model, plan, times, seed=0) for times in made):
        print(line, flush=True)


def profile(path: Path) -> None:
    """Measures a bundle here and prints milliseconds per graph and batch size, and per length."""
    bundle = load_bundle(path)
    manifest = bundle.manifest
    lengths, least = manifest.input.length_buckets, manifest.input.least
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    with Progress(transient=True) as progress:
        task = progress.add_task("profiling", total=RUNS)
        step = partial(progress.advance, task)
        cost = measure(runner, lengths=lengths, least=least, progress=step)
    console = Console()
    console.print(f"{path} on one thread of {cost.hardware}, {cost.runs} runs")
    for length in lengths or (None,):
        costs, of_length = cost, ""
        if length is not None:
            costs, of_length = cost.of_length(length), f", texts of {length} tokens"
        for name in ("median_s", "p95_s"):
            title = f"{name.removesuffix('_s')}, milliseconds{of_length}"
            console.print(table(costs, name, title))


def table(costs: GraphCosts, name: str, title: str) -> Table:
    """A row for every graph, a column for every batch size."""
    made = Table(title=title)
    made.add_column("batch size")
    for rows in costs.batch_sizes:
        made.add_column(str(rows), justify="right")
    for kind, graphs in (("segment", costs.segments), ("exit head", costs.exit_heads)):
        for graph in graphs:
            seconds: tuple[float, ...] = getattr(graph, name)
            made.add_row(f"{kind} {graph.exit}", *[f"{1000 * s:.2f}" for s in seconds])
    return made
