"""What becomes of the jobs of a batch once its segment has run. Pure, but for `answer`."""

from collections.abc import Callable
from dataclasses import dataclass, field

from models.bundle.policy import StopReason, runs_head, stop_reason
from server.engine.job import Job
from server.engine.scheduler import Batch
from server.errors import GraphFailed


@dataclass(frozen=True, slots=True)
class Verdict:
    """Jobs that go on, those that end with the reason, and those that end without any answer."""

    going_on: list[Job] = field(default_factory=list)
    ended: list[tuple[Job, StopReason]] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)


def judge(batch: Batch, now: float, answer: Callable[[list[Job]], float]) -> Verdict:
    """Applies the stop rule to the jobs that somebody still waits for.

    `answer` runs the exit head for some of them, adds to their answers and returns the time, or
    raises GraphFailed. A job that has no answer yet takes one here if waiting for its next one is a
    risk.
    """
    exit, verdict = batch.step.exit, Verdict()
    limit_of = outlook(batch, now)
    limits: dict[Job, StopReason | None] = {}
    answering: list[Job] = []
    for job in batch.jobs:
        if job.is_over:
            continue
        wait_s = 0.0 if job.answers else batch.wait_s
        limits[job] = limit_of(job, now + wait_s)
        needs_head = runs_head(job.demand.policy, exit, limits[job])
        (answering if needs_head else verdict.going_on).append(job)
    if not answering:
        return verdict
    try:
        now = answer(answering)
    except GraphFailed:
        do_without(answering, limits, verdict)
        return verdict
    for job in answering:
        limit = limits[job] or limit_of(job, now)
        reason = stop_reason(job.demand.policy, exit, job.answers[-1].confidence, limit)
        if reason is None:
            verdict.going_on.append(job)
        else:
            verdict.ended.append((job, reason))
    return verdict


def outlook(batch: Batch, now: float) -> Callable[[Job, float], StopReason | None]:
    """Tells of a job of the batch, at a time, why it must answer here; None if it can go on.

    The next step lies before all of them, and is looked up once.
    """
    model, next_exit = batch.step.model, batch.step.exit + 1
    next_exit = min(next_exit, model.manifest.num_exits)  # after the last, nobody goes on
    next_cost = model.costs.next_answer(next_exit - 1, len(batch.jobs))
    is_next_out = model.breakers[next_exit, False].is_open(now)

    def limit_of(job: Job, now: float) -> StopReason | None:
        if batch.step.is_head and not job.is_degraded:
            return StopReason.DEADLINE
        reason = job.limit(next_cost, now)
        return StopReason.DEGRADED if reason is None and is_next_out else reason

    return limit_of


def do_without(jobs: list[Job], limits: dict[Job, StopReason | None], verdict: Verdict) -> None:
    """The exit head failed: on to the next exit, or back to the last answer, if there is one."""
    for job in jobs:
        if limits[job] is None:
            verdict.going_on.append(job)
        elif job.answers:
            verdict.ended.append((job, StopReason.DEGRADED))
        else:
            verdict.failed.append(job)
