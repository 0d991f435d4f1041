"""The stop rule: when a job answers. Evaluation and server both run exactly this.

All functions are pure; exits are numbered from 1. After segment k has run, `limit_reason` says
whether the job can go on at all, `runs_head` whether exit head k is worth running, and, with its
confidence, `stop_reason` whether the job answers here.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from math import inf

from models.bundle.calibration import OperatingPoint


class StopReason(StrEnum):
    CONFIDENT = "confident"
    DEADLINE = "deadline"
    ENERGY = "energy"
    EXIT_LIMIT = "exit_limit"
    FINAL = "final"
    DEGRADED = "degraded"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Policy:
    """What one request asks of the stop rule.

    `thresholds[k - 1]` is the confidence exit k must exceed, None where the exit is not
    consulted and at the last exit.
    """

    thresholds: tuple[float | None, ...]
    min_exit: int
    max_exit: int

    @property
    def num_exits(self) -> int:
        return len(self.thresholds)


@dataclass(frozen=True, slots=True)
class Spend:
    """Time and energy: a cost, or what is left of a budget."""

    latency_s: float = inf
    energy_j: float = inf


def policy_at(point: OperatingPoint, *, min_exit: int = 1, max_exit: int | None = None) -> Policy:
    """The policy of an operating point."""
    thresholds = tuple(
        threshold if exit in point.consulted else None
        for exit, threshold in enumerate(point.thresholds, start=1)
    )
    return Policy(thresholds, min_exit, max_exit or len(thresholds))


def policy_of_threshold(
    threshold: float, num_exits: int, *, min_exit: int = 1, max_exit: int | None = None
) -> Policy:
    """The policy of one threshold at every exit but the last."""
    thresholds = (*[threshold] * (num_exits - 1), None)
    return Policy(thresholds, min_exit, max_exit or num_exits)


def limit_reason(policy: Policy, exit: int, left: Spend, next_cost: Spend) -> StopReason | None:
    """Why a job must answer at `exit` however unsure it is, or None if it can go on.

    `next_cost` is what the next answer would take: the next segment and its head.
    """
    if exit == len(policy.thresholds):
        return StopReason.FINAL
    if exit >= policy.max_exit:
        return StopReason.EXIT_LIMIT
    if next_cost.latency_s > left.latency_s:
        return StopReason.DEADLINE
    if next_cost.energy_j > left.energy_j:
        return StopReason.ENERGY
    return None


def consults(policy: Policy, exit: int) -> bool:
    """Whether a confident answer at `exit` would be taken."""
    return exit >= policy.min_exit and policy.thresholds[exit - 1] is not None


def runs_head(policy: Policy, exit: int, limit: StopReason | None) -> bool:
    """Whether the exit head runs: it may be confident enough, or the job must answer here."""
    return limit is not None or consults(policy, exit)


@lru_cache(maxsize=256)
def heads_without_budget(policy: Policy) -> tuple[tuple[int, StopReason | None], ...]:
    """The exits whose heads run for a job without a budget, until it stops.

    Each with why the job must answer there, if it must.
    """
    free = Spend(0.0, 0.0)
    limits = [(k, limit_reason(policy, k, Spend(), free)) for k in range(1, policy.num_exits + 1)]
    return tuple((exit, limit) for exit, limit in limits if runs_head(policy, exit, limit))


def stop_reason(
    policy: Policy, exit: int, confidence: float, limit: StopReason | None
) -> StopReason | None:
    """Why a job answers at `exit`, or None if it goes on. The comparison is strict."""
    threshold = policy.thresholds[exit - 1]
    if exit >= policy.min_exit and threshold is not None and confidence > threshold:
        return StopReason.CONFIDENT
    return limit
