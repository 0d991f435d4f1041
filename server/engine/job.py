"""One row (an image, a text, numbers) on its way through the server, and its outcome."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Self

from numpy.typing import NDArray

from models.bundle.confidence import Floats
from models.bundle.policy import Policy, Spend, StopReason, limit_reason
from models.bundle.runner import Arrays
from server.engine.model import ServedModel


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one row; None where the request sets none."""

    latency_s: float | None = None
    energy_j: float | None = None


@dataclass(slots=True)
class Demand:
    """What a request asks for each of its rows, known before they are decoded.

    `arrival` is monotonic; of the time since, the request waited `lag_s` for the event loop. Logs
    name it `request_id`. A background job runs only while no other job waits. `length` is the
    bucket that its rows are expected to have, as in `Given`.
    """

    model: ServedModel
    policy: Policy
    budget: Budget
    arrival: float
    lag_s: float = 0.0
    request_id: str | None = None
    is_background: bool = False
    length: int = 0

    @property
    def deadline(self) -> float:
        """Arrival + latency budget, infinite without one."""
        return inf if self.budget.latency_s is None else self.arrival + self.budget.latency_s


@dataclass(slots=True)
class Row:
    """One row's features, left in the arrays of the batch that made them."""

    arrays: Arrays
    index: int


@dataclass(slots=True)
class Given(Row):
    """One row as segment 1 takes it, decoded.

    `length` is the length bucket of a text, 0 where rows have one size. `is_cut` says that the text
    was longer than the largest one.
    """

    length: int = 0
    is_cut: bool = False

    @classmethod
    def of(cls, *arrays: NDArray[Any]) -> Self:
        """From the arrays of one row, without the batch."""
        return cls([array[None] for array in arrays], 0)


@dataclass(slots=True)
class Answer:
    """A complete prediction at one exit; `at_s` is monotonic."""

    exit: int
    probabilities: Floats
    confidence: float
    at_s: float


@dataclass(slots=True)
class Run:
    """One segment's run for a job: core seconds of the batch, and when it ended, monotonic."""

    seconds: float
    ended_at: float


@dataclass(slots=True)
class Outcome:
    """How a job ended, and when, on the monotonic clock.

    Joules are this row's; `answers` has every head that ran, `runs` every segment. `length` is the
    row's length bucket, as in `Given`.
    """

    answer: Answer
    stop_reason: StopReason
    queue_s: float
    compute_s: float
    energy_j: float
    macs: int
    runs: tuple[Run, ...]
    answers: tuple[Answer, ...]
    ended_at: float
    length: int = 0


@dataclass(slots=True, eq=False)
class Job:
    """One admitted row. `exit` is the last segment that has run, 0 before the first.

    `deadline` is when its outcome must exist, so that the response is in time; infinite without a
    latency budget. `due` orders the jobs: every job has one. `progress` is told every answer as it
    is computed, then `deliver`, once, the outcome or the error. `must_stop` is why it stops where
    it waits for an exit head alone. `is_degraded` says that a segment failed for it, `is_over` that
    nothing waits for it any more, `is_counted` that metrics and statistics count its runs.
    """

    demand: Demand
    given: Given
    deliver: Callable[["Outcome | Exception"], Any]
    progress: Callable[[Answer], Any] | None = None
    deadline: float = inf
    due: float = inf
    exit: int = 0
    features: Row = field(init=False)
    length: int = field(init=False)
    answers: list[Answer] = field(default_factory=list)
    waiting_since: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    energy_j: float = 0.0
    macs: int = 0
    runs: list[Run] = field(default_factory=list)
    must_stop: StopReason = StopReason.DEADLINE
    is_degraded: bool = False
    is_over: bool = False
    is_counted: bool = True

    def __post_init__(self) -> None:
        self.features, self.length = self.given, self.given.length

    @property
    def model(self) -> ServedModel:
        return self.demand.model

    def waited(self, now: float) -> None:
        """It leaves the queue in which it waited for a step."""
        self.queue_s += now - self.waiting_since

    def advanced(self, exit: int, features: Row, run: Run, energy_j: float) -> None:
        """Segment `exit` has run."""
        self.exit, self.features = exit, features
        self.runs.append(run)
        self.macs += self.demand.model.manifest.segments[exit - 1].macs_of(self.length)
        self.compute_s += run.seconds
        self.energy_j += energy_j

    def answered(self, answer: Answer, seconds: float, energy_j: float) -> None:
        """The head of an exit has run, in a batch of so many core seconds."""
        self.answers.append(answer)
        self.macs += self.demand.model.manifest.exit_heads[answer.exit - 1].macs_of(self.length)
        self.compute_s += seconds
        self.energy_j += energy_j

    def limit(self, exit: int, next_cost: Spend, now: float) -> StopReason | None:
        """Why the job must answer at an exit, or None if it can go on.

        Its next answer would take `next_cost`, from `now` on.
        """
        if self.is_degraded:
            return StopReason.DEGRADED
        budget_j = self.demand.budget.energy_j
        energy_j = inf if budget_j is None else budget_j - self.energy_j
        return limit_reason(
            self.demand.policy, exit, Spend(self.deadline - now, energy_j), next_cost
        )

    def has_answer_at(self, exit: int) -> bool:
        return bool(self.answers) and self.answers[-1].exit == exit

    def overdue(self, now: float) -> "Outcome":
        """The outcome of a job that waited too long for a better answer.

        It ended when it was due: a turn that comes later is part of the delivery.
        """
        return self.outcome(StopReason.DEADLINE, max(min(now, self.due), self.answers[-1].at_s))

    def outcome(self, reason: StopReason, now: float) -> Outcome:
        """The outcome of answering now, with the latest answer."""
        return Outcome(
            answer=self.answers[-1],
            stop_reason=reason,
            queue_s=self.queue_s,
            compute_s=self.compute_s,
            energy_j=self.energy_j,
            macs=self.macs,
            runs=tuple(self.runs),
            answers=tuple(self.answers),
            ended_at=now,
            length=self.length,
        )
