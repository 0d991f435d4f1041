"""Outcomes in the words of both protocols: labels, milliseconds, and time by step."""

from itertools import zip_longest

import numpy as np

from models.bundle.confidence import Floats
from server.engine.job import Outcome
from server.running import Served


def best_labels(probabilities: Floats, k: int) -> list[int]:
    """Indices of the k most probable labels, most probable first."""
    if k == 1:  # which is mostly what is asked for, and quicker
        return [int(probabilities.argmax())]
    best: list[int] = np.argsort(-probabilities, kind="stable")[:k].tolist()
    return best


def is_met(served: Served, outcome: Outcome) -> bool:
    """Whether a row's answer kept within the request's budget; true where none was set."""
    budget = served.demand.budget
    is_in_time = budget.latency_s is None or served.total_s <= budget.latency_s
    return is_in_time and (budget.energy_j is None or outcome.energy_j <= budget.energy_j)


def server_timing(served: Served) -> str:
    """A Server-Timing header in milliseconds; of several rows, the longest of each step."""
    queue_s = max([outcome.queue_s for outcome in served.outcomes])
    steps = [("decode", served.decode_s), ("queue", queue_s)]
    all_runs = zip_longest(*[outcome.runs for outcome in served.outcomes])
    for exit, runs in enumerate(all_runs, start=1):
        steps.append((f"segment_{exit}", max([run.seconds for run in runs if run])))
    return ", ".join([f"{name};dur={1000 * seconds:.3f}" for name, seconds in steps])


def milli(base: float) -> float:
    """Seconds to milliseconds, joules to millijoules, without false digits."""
    return round(1000 * base, 3)
