"""Notes the results of a batch in its jobs, the model's costs and its breakers."""

import logging
from collections.abc import Iterable, Sequence
from math import isfinite

from server.engine.compute import Computed
from server.engine.job import Answer, Job, Row, Run
from server.engine.scheduler import Batch
from server.errors import GraphOutOfUse

logger = logging.getLogger("offramp.engine")


def note(batch: Batch, head_rows: Sequence[int], computed: Computed, now: float) -> None:
    """Moves the jobs to their exit and gives them its answers.

    A job that ended meanwhile is left as it is.
    """
    step, jobs = batch.step, batch.jobs
    if computed.failure is not None:
        return
    costs = step.costs
    if not step.is_head and computed.features is not None:
        run = Run(computed.segment_s, now - computed.head_s)
        energy_j = costs.energy_j(run.seconds, len(jobs))
        for index, job in enumerate(jobs):
            if not job.is_over:
                job.advanced(step.exit, Row(computed.features, index), run, energy_j)
        costs.segment_took(step.exit, len(jobs), run.seconds)
    if computed.probabilities is None:
        return
    costs.head_took(step.exit, len(head_rows), computed.head_s)
    energy_j = costs.energy_j(computed.head_s, len(head_rows))
    for row, probabilities, confidence in zip(
        head_rows, computed.probabilities, computed.confidences, strict=True
    ):
        if isfinite(confidence) and not jobs[row].is_over:
            answer = Answer(step.exit, probabilities, confidence, now)
            jobs[row].answered(answer, computed.head_s, energy_j)


def note_failures(batch: Batch, computed: Computed, now: float) -> int:
    """Tells the breakers what ran and what failed; logs failures and returns how many there are.

    A run that was ended because no job waited for it any more has not failed.
    """
    step, breakers = batch.step, batch.model.breakers
    if not breakers and computed.failure is None and computed.head_failure is None:
        return 0
    if all(job.is_over for job in batch.jobs):
        return 0
    num_failed = 0
    ran = [] if step.is_head else [(False, computed.failure)]
    if computed.failure is None and (computed.probabilities is not None or computed.head_failure):
        ran.append((True, computed.head_failure))
    elif step.is_head:
        ran.append((True, computed.failure))
    for is_head, error in ran:
        if error is None:
            if (breaker := breakers.get((step.exit, is_head))) is not None:
                breaker.succeeded()
        elif not isinstance(error, GraphOutOfUse):
            if not isinstance(error, FloatingPointError):  # which may be the row's own fault
                breakers[step.exit, is_head].failed(now)
            what = batch.model.step(step.exit, is_head=is_head, length=step.length)
            logger.error("%s failed", what, exc_info=error, extra=requests_of(batch.jobs))
            num_failed += 1
    return num_failed


def requests_of(jobs: Iterable[Job]) -> dict[str, object]:
    """The fields of a batch's log line."""
    ids = {job.demand.request_id for job in jobs}
    return {"fields": {"request_ids": sorted(filter(None, ids))}}
