"""Decides which jobs of a batch need the exit head, and how each goes on after it. Pure."""

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from models.bundle.policy import Spend, StopReason, runs_head, stop_reason
from server.engine.job import Job
from server.engine.scheduler import Batch

NOTHING = Spend(0.0, 0.0)


@dataclass(slots=True)
class Verdict:
    """Sorts the jobs of a batch.

    Some go on, some end for a reason, some need the head of this exit after all, and some fail
    without any answer.
    """

    going_on: list[Job] = field(default_factory=list)
    ended: list[tuple[Job, StopReason]] = field(default_factory=list)
    to_answer: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)


def asking(batch: Batch) -> list[int]:
    """Indices of the jobs that need the head: they may stop here, or will probably have to."""
    if batch.step.is_head:
        return list(range(len(batch.jobs)))
    limit_of = outlook(batch, batch.ends_at)
    return [
        row
        for row, job in enumerate(batch.jobs)
        if runs_head(job.demand.policy, batch.step.exit, limit_of(job, batch.ends_at))
    ]


def judge(batch: Batch, asked: Container[Job], now: float) -> Verdict:
    """Applies the stop rule to the jobs that are not over, after the segment and perhaps the head.

    `asked` are the jobs that the head ran for. The head failed for an asked job that has no answer
    of this exit: it goes on, or answers with its last answer.
    """
    exit, verdict, limit_of = batch.step.exit, Verdict(), outlook(batch, now)
    for job in batch.jobs:
        if job.is_over:
            continue
        limit = limit_of(job, now)
        if job.has_answer_at(exit):
            confidence = job.answers[-1].confidence
            reason = stop_reason(job.demand.policy, exit, confidence, limit)
            if reason is not None:
                verdict.ended.append((job, reason))
                continue
        if limit is None:
            verdict.going_on.append(job)
        elif job not in asked:
            verdict.to_answer.append(job)
        elif job.answers:
            verdict.ended.append((job, StopReason.DEGRADED))
        else:
            verdict.failed.append(job)
    return verdict


def outlook(batch: Batch, now: float) -> Callable[[Job, float], StopReason | None]:
    """A function of a job and a time: why the job must answer here, or None if it can go on.

    The next step is the same for all jobs, so its cost is looked up once. A job without an answer
    adds the time that the first answers of others will take.
    """
    model, exit = batch.step.model, batch.step.exit
    next_exit = min(exit + 1, model.manifest.num_exits)  # no job goes on after the last
    is_next_out = model.breakers[next_exit, False].is_open(now)
    next_cost = NOTHING
    if any(job.has_budget for job in batch.jobs):
        next_cost = batch.step.costs.next_answer(next_exit - 1, len(batch.jobs))

    def limit_of(job: Job, now: float) -> StopReason | None:
        if batch.step.is_head and not job.is_degraded:
            return StopReason.DEADLINE
        reason = job.limit(exit, next_cost, now if job.answers else now + batch.wait_s)
        if reason is None and is_next_out:
            return StopReason.DEGRADED
        return StopReason.DEADLINE if reason is None and batch.is_pressed else reason

    return limit_of
