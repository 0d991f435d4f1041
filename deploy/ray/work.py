"""What goes to an engine replica and comes back: durations, since clocks of machines differ."""

from dataclasses import dataclass, replace

from models.bundle.policy import Policy
from server.engine.job import Budget, Given, Job, Outcome


@dataclass(frozen=True, slots=True)
class Work:
    """The rows of one request, and what is left of its latency budget for the engine.

    `length` is the bucket that they are expected to have, 0 where all rows have one size.
    """

    model: str
    version: int
    policy: Policy
    budget: Budget
    rows: list[Given]
    strict: bool
    is_background: bool = False
    length: int = 0


def work_of(jobs: list[Job], now: float, *, strict: bool = False) -> Work:
    """Jobs of one request, with what is left of the budget at a moment of this machine's clock."""
    demand = jobs[0].demand
    latency_s = demand.budget.latency_s
    if latency_s is not None:
        latency_s -= now - demand.arrival
    budget = replace(demand.budget, latency_s=latency_s)
    manifest = demand.model.manifest
    rows = [job.given for job in jobs]
    key = manifest.name, manifest.version
    return Work(*key, demand.policy, budget, rows, strict, demand.is_background, demand.length)


def shifted(outcome: Outcome, seconds: float) -> Outcome:
    """With times of a clock that is so far ahead."""
    answers = tuple(replace(answer, at_s=answer.at_s + seconds) for answer in outcome.answers)
    answer = replace(outcome.answer, at_s=outcome.answer.at_s + seconds)
    return replace(
        outcome,
        answer=answer,
        answers=answers,
        ended_at=outcome.ended_at + seconds,
        runs=tuple(replace(run, ended_at=run.ended_at + seconds) for run in outcome.runs),
    )
