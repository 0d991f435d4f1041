"""What becomes of the jobs of a batch once its segment has run. Pure, but for `answer`."""

from collections.abc import Callable

from models.bundle.policy import StopReason, runs_head, stop_reason
from server.job import Job
from server.scheduler import Batch

Verdict = tuple[Job, StopReason]


def judge(
    batch: Batch, now: float, answer: Callable[[list[Job]], float]
) -> tuple[list[Job], list[Verdict]]:
    """Applies the stop rule; returns the jobs that go on, and those that end with the reason.

    `answer` runs the exit head for some of the jobs, adds to their answers and returns the time.
    A job that has no answer yet takes one here if waiting for its next one is a risk.
    """
    exit, rows = batch.step.exit, len(batch.jobs)
    limits: dict[Job, StopReason | None] = {}
    answering: list[Job] = []
    going_on: list[Job] = []
    for job in batch.jobs:
        wait_s = 0.0 if job.answers else batch.wait_s
        limits[job] = StopReason.DEADLINE if batch.step.is_head else job.limit(rows, now + wait_s)
        needs_head = runs_head(job.policy, exit, limits[job])
        (answering if needs_head else going_on).append(job)
    if answering:
        now = answer(answering)
    ended: list[Verdict] = []
    for job in answering:
        limit = limits[job] or job.limit(rows, now)
        reason = stop_reason(job.policy, exit, job.answers[-1].confidence, limit)
        if reason is None:
            going_on.append(job)
        else:
            ended.append((job, reason))
    return going_on, ended
