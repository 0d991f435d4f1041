"""What the server remembers of one image on its way, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.confidence import Floats
from models.bundle.policy import Policy, Spend, StopReason, limit_reason
from models.bundle.runner import Arrays
from server.zoo.catalog import ServedModel


@dataclass(frozen=True, slots=True)
class Budget:
    """What one image may spend; None where the request sets no limit."""

    latency_s: float | None = None
    energy_j: float | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks for each of its images, known before they are decoded.

    It came at `arrival`, on the monotonic clock, and waited `lag_s` for its turn on the event loop.
    The log names it `request_id`.
    """

    model: ServedModel
    policy: Policy
    budget: Budget
    arrival: float
    lag_s: float = 0.0
    request_id: str | None = None

    @property
    def deadline(self) -> float:
        """Arrival + latency budget, infinite without one."""
        return inf if self.budget.latency_s is None else self.arrival + self.budget.latency_s


@dataclass(slots=True)
class Row:
    """One image's features, left in the arrays of the batch that made them."""

    arrays: Arrays
    index: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete prediction at one exit; `at_s` is monotonic."""

    exit: int
    probabilities: Floats
    confidence: float
    at_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended, and when, on the monotonic clock.

    Seconds and joules are this image's; `answers` is every head that ran, `segment_ends` when each
    segment had.
    """

    answer: Answer
    stop_reason: StopReason
    queue_s: float
    compute_s: float
    energy_j: float
    macs: int
    segment_s: tuple[float, ...]
    segment_ends: tuple[float, ...]
    answers: tuple[Answer, ...]
    ended_at: float


@dataclass(slots=True, eq=False)
class Job:
    """One admitted image. `exit` is the last segment that has run, 0 before the first.

    `deadline` is the request's, unless the server is in a hurry. `due` is when the scheduler wants
    the job answered: it gives one to every job. On the event loop, `progress` is told every answer
    as it is computed, and then `deliver`, once, the outcome or the error. `is_degraded` says that a
    segment failed for it, `is_over` that nobody waits for it any more.
    """

    demand: Demand
    image: NDArray[np.uint8]
    deliver: Callable[[Outcome | Exception], Any]
    progress: Callable[[Answer], Any] | None = None
    deadline: float = field(init=False)
    due: float = inf
    exit: int = 0
    features: Row = field(init=False)
    answers: list[Answer] = field(default_factory=list)
    waiting_since: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    energy_j: float = 0.0
    macs: int = 0
    segment_s: list[float] = field(default_factory=list)
    segment_ends: list[float] = field(default_factory=list)
    is_degraded: bool = False
    is_over: bool = False

    def __post_init__(self) -> None:
        self.features = Row([self.image[None]], 0)
        self.deadline = self.demand.deadline

    @property
    def model(self) -> ServedModel:
        return self.demand.model

    def limit(self, next_cost: Spend, now: float) -> StopReason | None:
        """Why the job must answer at the exit it has reached, or None if it can go on.

        Its next answer would take `next_cost`, from `now` on.
        """
        if self.is_degraded:
            return StopReason.DEGRADED
        return limit_reason(self.demand.policy, self.exit, self.left(now), next_cost)

    def left(self, now: float) -> Spend:
        """What is left of the budget for computing: an answer is not a response yet."""
        budget_j = self.demand.budget.energy_j
        energy_j = inf if budget_j is None else budget_j - self.energy_j
        return Spend(self.deadline - now - self.model.costs.delivery_s, energy_j)

    @property
    def answers_by(self) -> float:
        """When to answer with what there is, for the response to be in time."""
        return self.due - self.model.costs.delivery_s

    def has_answer_at(self, exit: int) -> bool:
        return bool(self.answers) and self.answers[-1].exit == exit

    def outcome(self, reason: StopReason, now: float) -> Outcome:
        """The outcome of answering now, with the latest answer."""
        return Outcome(
            answer=self.answers[-1],
            stop_reason=reason,
            queue_s=self.queue_s,
            compute_s=self.compute_s,
            energy_j=self.energy_j,
            macs=self.macs,
            segment_s=tuple(self.segment_s),
            segment_ends=tuple(self.segment_ends),
            answers=tuple(self.answers),
            ended_at=now,
        )
