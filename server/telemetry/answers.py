"""What answers are counted as: exit, stop reason, waiting, budget and energy."""

from collections.abc import Sequence
from math import inf

from models.bundle.policy import StopReason
from server.engine.job import Budget, Outcome
from server.engine.model import ServedModel
from server.telemetry.ledger import later
from server.telemetry.memory import Memory
from server.telemetry.statistics import VersionStatistics

OUTCOMES = ("answered", "failed", "cancelled")


class AnswerMetrics(VersionStatistics):
    """Answers by model, with what they took of their budgets."""

    def __init__(self, memory: Memory, fds: Sequence[int]) -> None:
        super().__init__(memory, fds)
        self._inferences = self._counter(
            "inferences", "Images admitted and decoded", "model", "outcome"
        )
        self._exits = self._counter("exits", "Answers given at each exit", "model", "exit")
        self._stops = self._counter(
            "stops", "Answers, and images cancelled, by stop reason", "model", "reason"
        )
        self._answer_duration = self._histogram(
            "answer_duration_seconds",
            "From a request's arrival to its answer, by the exit of each image",
            "model",
            "exit",
        )
        self._queue_wait = self._histogram(
            "queue_wait_seconds", "Time an image waited for a worker, all segments", "model"
        )
        self._energy = self._counter("energy_joules", "Energy spent on answers", "model", "source")
        self._budget_slack = self._histogram(
            "budget_slack_seconds", "Latency budget left at the answer", "model"
        )
        self._budget_overrun = self._histogram(
            "budget_overrun_seconds", "Time past the deadline at the answer", "model"
        )
        self._deadline_misses = self._counter(
            "deadline_misses", "Answers that came after their deadline", "model"
        )
        self._depth_limited = self._counter(
            "depth_limited", "Answers cut short that would not have been without waiting", "model"
        )

    def model_loaded(self, model: ServedModel) -> None:
        super().model_loaded(model)
        name = model.manifest.name
        self._energy.labels(name, model.energy_source)
        for outcome in OUTCOMES:
            self._inferences.labels(name, outcome)
        for reason in StopReason:
            self._stops.labels(name, reason)
        for exit in range(1, model.manifest.num_exits + 1):
            self._exits.labels(name, exit)
            self._answer_duration.labels(name, exit)
        for metric in (
            self._queue_wait, self._budget_slack, self._budget_overrun, self._deadline_misses,
            self._depth_limited,
        ):  # fmt: skip
            metric.labels(name)

    @later
    def served(
        self,
        model: ServedModel,
        budget: Budget,
        outcomes: Sequence[Outcome],
        num_failed: int,
        total_s: float,
        *,
        is_timed: bool = True,
    ) -> None:
        """Counts a request whose rows have all ended, `total_s` after it arrived.

        What it waited and took is counted only if it is timed: in the background that says nothing.
        """
        for outcome in outcomes:
            self._count_answer(model, budget, outcome, total_s)
            if is_timed:
                labels = model.manifest.name, outcome.answer.exit
                self._answer_duration.labels(*labels).observe(total_s)
                self._queue_wait.labels(model.manifest.name).observe(outcome.queue_s)
        if num_failed:
            self._inferences.labels(model.manifest.name, "failed").inc(num_failed)
        statistics = self._statistics_of(model)
        statistics.request_ended(is_success=not num_failed, total_s=total_s)

    def _count_answer(
        self, model: ServedModel, budget: Budget, outcome: Outcome, total_s: float
    ) -> None:
        """Counts one answer: its exit, stop reason, budget and energy."""
        name, exit = model.manifest.name, outcome.answer.exit
        self._statistics_of(model).answered(outcome.queue_s, outcome.compute_s)
        self._inferences.labels(name, "answered").inc()
        self._exits.labels(name, exit).inc()
        self._stops.labels(name, outcome.stop_reason).inc()
        self._energy.labels(name, model.energy_source).inc(outcome.energy_j)
        if is_depth_limited(model, budget, outcome, total_s):
            self._depth_limited.labels(name).inc()
        if budget.latency_s is None:
            return
        if total_s <= budget.latency_s:
            self._budget_slack.labels(name).observe(budget.latency_s - total_s)
        else:
            self._budget_overrun.labels(name).observe(total_s - budget.latency_s)
            self._deadline_misses.labels(name).inc()

    def cancelled(self, model: ServedModel, images: int) -> None:
        """Counts admitted images whose client went away."""
        name = model.manifest.name
        self._inferences.labels(name, "cancelled").inc(images)
        self._stops.labels(name, StopReason.CANCELLED).inc(images)


def is_depth_limited(model: ServedModel, budget: Budget, outcome: Outcome, total_s: float) -> bool:
    """Whether the time that an answer waited would have been enough for the next exit.

    A request without a budget is cut short by load alone.
    """
    if outcome.stop_reason is not StopReason.DEADLINE:
        return False
    left_s = inf if budget.latency_s is None else budget.latency_s - total_s
    next_answer = model.step(1, length=outcome.length).costs.next_answer(outcome.answer.exit, 1)
    return next_answer.latency_s <= left_s + outcome.queue_s
