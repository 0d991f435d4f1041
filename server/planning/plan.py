"""What load does to a bundle's answers: the scheduler simulated on its calibration rows."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from models.bundle.cost_profile import CostProfile, GraphCost
from models.bundle.costs import Costs
from models.bundle.errors import UserError
from models.bundle.policy import Policy
from server.engine.admission import Admission
from server.engine.job import Budget, Demand
from server.engine.model import ServedModel, Step
from server.engine.scheduler import Scheduler
from server.planning.simulation import Fate, Python, Request, Simulation

BURST_S, BURST_RATE = 0.5, 3.0
"""Length of a burst, and how many times the mean rate it has."""
MAX_PYTHON = 0.95
"""Share of an event loop's time that requests may take before they are admitted or refused."""


@dataclass(frozen=True)
class Plan:
    """What is simulated: processes, what every request asks for, and what Python takes.

    Each process has an event loop and `lanes` threads for long batches, all on cores of their own,
    and admits `max_in_flight` images. Python reads, decodes and answers a request, and hands a
    batch out and back.
    """

    policy: Policy
    budget: Budget
    processes: int
    lanes: int
    max_in_flight: int
    python: Python


@dataclass(frozen=True)
class Load:
    """What one offered load gave; shares are of the requests, accuracy is of those answered."""

    rate: float
    goodput: float
    refused: float
    late: float
    p50_s: float
    p99_s: float
    accuracy: float
    exit_shares: tuple[float, ...]


def poisson(rate: float, num_requests: int, generator: Generator) -> NDArray[np.float64]:
    """Arrivals that know nothing of each other, in seconds."""
    return generator.exponential(1 / rate, num_requests).cumsum()


def bursts(rate: float, num_requests: int, generator: Generator) -> NDArray[np.float64]:
    """Poisson arrivals of the same mean rate that all fall into bursts."""
    busy = poisson(BURST_RATE * rate, num_requests, generator)
    return busy + np.floor(busy / BURST_S) * BURST_S * (BURST_RATE - 1)


ARRIVALS: dict[str, Callable[[float, int, Generator], NDArray[np.float64]]] = {
    "poisson": poisson,
    "bursts": bursts,
}


def recorded(path: Path, rate: float) -> NDArray[np.float64]:
    """A trace's arrivals at another mean rate: a time a line, in seconds or ISO 8601.

    Processes that write one log do so in turns, so that its times may fall.
    """
    try:
        times = np.sort([seconds(line) for line in path.read_text().split()])
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no list of times: {error}") from error
    if len(times) < 2 or not np.isfinite(times).all():
        raise UserError(f"{path} must have two times or more")
    if (length := times[-1] - times[0]) == 0:
        raise UserError(f"all of {path} happens at once")
    arrivals: NDArray[np.float64] = (times - times[0]) * (len(times) - 1) / (rate * length)
    return arrivals


def seconds(time: str) -> float:
    """A line of a trace; raises ValueError."""
    try:
        return float(time)
    except ValueError:
        return datetime.fromisoformat(time).timestamp()


def simulate(model: ServedModel, plan: Plan, arrivals: NDArray[np.float64], seed: int) -> Load:
    """Simulates requests that arrive at these seconds, each a random calibration row.

    The processes are given requests in turn.
    """
    rows = model.bundle.calibration.rows
    if rows is None:
        raise UserError(f"{model.bundle.path} keeps no calibration rows; export it again")
    num_exits = model.manifest.num_exits
    confidences, is_right = rows.arrays(num_exits)
    lengths = np.zeros(len(confidences), np.int64) if rows.buckets is None else rows.buckets
    drawn = np.random.default_rng(seed).integers(len(confidences), size=len(arrivals))
    rate = (len(arrivals) - 1) / float(arrivals[-1] - arrivals[0])
    if rate * plan.python.request_s / 2 >= MAX_PYTHON * plan.processes:
        raise UserError(f"{rate:.0f} requests/s leave the event loops no time for segments")
    fates, hits = list[Fate](), list[bool]()
    for number in range(plan.processes):
        mine = slice(number, None, plan.processes)
        some = drawn[mine]
        found = simulate_process(model, plan, arrivals[mine], confidences[some], lengths[some])
        fates += found
        hits += [
            bool(is_right[row, fate.outcome.answer.exit - 1])
            for row, fate in zip(some, found, strict=True)
            if fate.outcome is not None
        ]
    return load_of(rate, fates, hits, plan, num_exits)


def simulate_process(
    model: ServedModel,
    plan: Plan,
    arrivals: NDArray[np.float64],
    confidences: NDArray[np.float64],
    lengths: NDArray[np.int64],
) -> list[Fate]:
    """The fates of the requests that one process is given, in order of arrival.

    It learns what the model costs for itself.
    """
    own = replace(
        model,
        costs=Costs(model.profile, model.costs.overhead_s),
        shorter={
            length: Costs(model.profile.of_length(length), costs.overhead_s)
            for length, costs in model.shorter.items()
        },
    )
    rows = zip(arrivals.tolist(), confidences.tolist(), lengths.tolist(), strict=True)
    requests = [
        Request(Demand(own, plan.policy, plan.budget, at_s, length=length), tuple(row))
        for at_s, row, length in rows
    ]
    admission = Admission(plan.max_in_flight, Scheduler(plan.lanes))
    fates = Simulation(admission, Durations(model.profile), plan.python).run(requests)
    fate_of = {id(fate.request): fate for fate in fates}
    return [fate_of[id(request)] for request in requests]


class Durations:
    """Median seconds of a step, of each length bucket or of rows of one size."""

    def __init__(self, profile: CostProfile) -> None:
        self._largest = Costs(as_medians(profile))
        self._shorter = {
            part.length: Costs(as_medians(profile.of_length(part.length)))
            for part in profile.shorter
        }

    def __call__(self, step: Step, rows: int, is_head: bool) -> float:
        costs = self._shorter.get(step.length, self._largest)
        return (costs.head_s if is_head else costs.segment_s)(step.exit, rows)


def as_medians(profile: CostProfile) -> CostProfile:
    """The profile with medians for high quantiles."""

    def median(costs: Sequence[GraphCost]) -> tuple[GraphCost, ...]:
        return tuple(cost.model_copy(update={"p95_s": cost.median_s}) for cost in costs)

    changed = {"segments": median(profile.segments), "exit_heads": median(profile.exit_heads)}
    return profile.model_copy(update=changed)


def load_of(
    rate: float, fates: Sequence[Fate], hits: Sequence[bool], plan: Plan, num_exits: int
) -> Load:
    """The figures of one simulation."""
    answered = [fate for fate in fates if fate.outcome is not None]
    latencies = [fate.latency_s for fate in answered]
    budget_s = plan.budget.latency_s
    num_late = 0 if budget_s is None else sum(latency > budget_s for latency in latencies)
    exits = Counter(fate.outcome.answer.exit for fate in answered if fate.outcome)
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) if latencies else (0.0, 0.0)
    return Load(
        rate=rate,
        goodput=rate * (len(answered) - num_late) / len(fates),
        refused=1 - len(answered) / len(fates),
        late=num_late / len(fates),
        p50_s=float(p50),
        p99_s=float(p99),
        accuracy=float(np.mean(hits)) if hits else 0.0,
        exit_shares=tuple(exits[k] / max(1, len(answered)) for k in range(1, num_exits + 1)),
    )


def markdown(loads: Iterator[Load]) -> Iterator[str]:
    """A table, row by row."""
    yield "| requests/s | good/s | refused % | late % | p50 ms | p99 ms | top-1 % | per exit % |"
    yield "|---|---|---|---|---|---|---|---|"
    for load in loads:
        shares = " ".join(f"{100 * share:.0f}" for share in load.exit_shares)
        yield (
            f"| {load.rate:.0f} | {load.goodput:.0f} | {100 * load.refused:.1f} "
            f"| {100 * load.late:.1f} | {1000 * load.p50_s:.2f} | {1000 * load.p99_s:.2f} "
            f"| {100 * load.accuracy:.1f} | {shares} |"
        )
