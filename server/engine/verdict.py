"""Decides which jobs of a batch need the exit head, and how each goes on after it. Pure."""

from collections.abc import Container
from dataclasses import dataclass, field
from math import inf

from models.bundle.policy import Spend, StopReason, runs_head, stop_reason
from server.engine.job import Job
from server.engine.scheduler import Batch

NOTHING = Spend(0.0, 0.0)


@dataclass(slots=True)
class Verdict:
    """Sorts the jobs of a batch.

    Some go on, some end for a reason, some need the head of this exit after all, to end for a
    reason, and some fail without any answer.
    """

    going_on: list[Job] = field(default_factory=list)
    ended: list[tuple[Job, StopReason]] = field(default_factory=list)
    to_answer: list[tuple[Job, StopReason]] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)


def asking(batch: Batch) -> list[int]:
    """Indices of the jobs that need the head: they may stop here, or will probably have to."""
    if batch.step.is_head:
        return list(range(len(batch.jobs)))
    exit, costs, rows = batch.step.exit, batch.step.costs, len(batch.jobs)
    next_cost = cost_of_next(batch, rows)
    segment_j = costs.energy_j(costs.segment_s(exit, rows), rows)  # spent by then
    next_cost = Spend(next_cost.latency_s, segment_j + next_cost.energy_j)
    return [
        row
        for row, job in enumerate(batch.jobs)
        if runs_head(job.demand.policy, exit, limit_of(batch, job, next_cost, batch.ends_at))
    ]


def judge(batch: Batch, asked: Container[Job], now: float) -> Verdict:
    """Applies the stop rule to the jobs that are not over, after the segment and perhaps the head.

    `asked` are the jobs that the head ran for. The head failed for an asked job that has no answer
    of this exit: it goes on, or answers with its last answer.
    """
    exit, verdict, unsure = batch.step.exit, Verdict(), list[Job]()
    for job in batch.jobs:
        if job.is_over:
            continue
        if job.has_answer_at(exit):
            confidence = job.answers[-1].confidence
            reason = stop_reason(job.demand.policy, exit, confidence, None)
            if reason is not None:
                verdict.ended.append((job, reason))
                continue
        unsure.append(job)
    if not unsure:
        return verdict
    next_cost = cost_of_next(batch, len(unsure))
    for job in unsure:
        limit = limit_of(batch, job, next_cost, now)
        if limit is None:
            verdict.going_on.append(job)
        elif job.has_answer_at(exit):
            verdict.ended.append((job, limit))
        elif job not in asked:
            verdict.to_answer.append((job, limit))
        elif job.answers:
            verdict.ended.append((job, StopReason.DEGRADED))
        else:
            verdict.failed.append(job)
    return verdict


def cost_of_next(batch: Batch, rows: int) -> Spend:
    """What the next answer costs a job, one of so many; nothing where no job has a budget."""
    step = batch.step
    for job in batch.jobs:
        if job.deadline < inf or job.demand.budget.energy_j is not None:
            is_last = step.exit == job.demand.policy.num_exits
            return NOTHING if is_last else step.costs.next_answer(step.exit, rows)
    return NOTHING


def limit_of(batch: Batch, job: Job, next_cost: Spend, now: float) -> StopReason | None:
    """Why a job of the batch must answer here, or None if it can go on.

    A job without an answer adds the time that the first answers of others will take.
    """
    if batch.step.is_head:
        return job.must_stop
    exit = batch.step.exit
    reason = job.limit(exit, next_cost, now if job.answers else now + batch.wait_s)
    if reason is not None:
        return reason
    if job.demand.model.is_out(exit + 1, now):
        return StopReason.DEGRADED
    return StopReason.DEADLINE if batch.is_pressed else None
