"""Running a step for a batch: features and answers of the jobs, and what they cost.

Costs are seconds by the runner's clock.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import onnxruntime as ort

from models.bundle.confidence import calibrated_probabilities, confidence
from models.bundle.runner import Arrays
from server.engine.job import Answer, Job, Row
from server.engine.queues import Step
from server.engine.scheduler import Batch
from server.errors import GraphFailed, GraphOutOfUse


def advance(batch: Batch, jobs: Sequence[Job], options: ort.RunOptions) -> None:
    """Runs the segment and hands every job its row of the features; raises GraphFailed."""
    model, exit = batch.step.model, batch.step.exit
    start = model.runner.clock()
    with guarded(Step(model, exit), options):
        outputs = model.runner.run_segment(exit, gather([j.features for j in jobs]), options)
    seconds, now = model.runner.clock() - start, time.monotonic()
    macs = model.manifest.segments[exit - 1].macs
    for row, job in enumerate(jobs):
        job.exit = exit
        job.features = Row(outputs, row)
        job.macs += macs
        job.segment_s.append(seconds)
        job.segment_ends.append(now)
    model.costs.segment_took(exit, len(jobs), seconds)
    charge(batch, jobs, seconds)


def answer(batch: Batch, jobs: Sequence[Job], options: ort.RunOptions) -> float:
    """Runs the exit head on the features the jobs hold, records what it said, and returns when.

    Raises GraphFailed, also where it says no number.
    """
    model, exit = batch.step.model, batch.step.exit
    temperature = model.bundle.calibration.exits[exit - 1].calibration_temperature
    start = model.runner.clock()
    with guarded(Step(model, exit, is_head=True), options):
        logits = model.runner.run_head(exit, gather([j.features for j in jobs]), options)
        probabilities = calibrated_probabilities(logits, temperature)
        confidences = confidence(probabilities)
        if not np.isfinite(confidences).all():
            raise FloatingPointError("logits are not finite")
    seconds, now = model.runner.clock() - start, time.monotonic()
    macs = model.manifest.exit_heads[exit - 1].macs
    for job, row, value in zip(jobs, probabilities, confidences.tolist(), strict=True):
        job.answers.append(Answer(exit, row, value, now))
        job.macs += macs
    model.costs.head_took(exit, len(jobs), seconds)
    charge(batch, jobs, seconds)
    return now


@contextmanager
def guarded(step: Step, options: ort.RunOptions) -> Iterator[None]:
    """Keeps the step's breaker; any error inside is a GraphFailed outside.

    A run that was told to end is no failure.
    """
    breaker = step.model.breakers[step.exit, step.is_head]
    if breaker.is_open(time.monotonic()):
        raise GraphOutOfUse(f"{step} is out of use: it failed {breaker.num_failures} times")
    try:
        yield
    except Exception as error:  # onnxruntime's errors have no common base
        if not options.terminate:
            breaker.failed(time.monotonic())
        raise GraphFailed(f"{step} failed") from error
    breaker.succeeded()


def charge(batch: Batch, jobs: Sequence[Job], core_s: float) -> None:
    batch.core_s += core_s
    energy_j = batch.step.model.costs.energy_j(core_s, len(jobs))
    for job in jobs:
        job.compute_s += core_s
        job.energy_j += energy_j


def gather(rows: Sequence[Row]) -> Arrays:
    """Rows of several batches as one; no copy of what lies together in one of them already."""
    parts = [
        select(same[0].arrays, [row.index for row in same])
        for same in (list(group) for _, group in groupby(rows, lambda row: id(row.arrays)))
    ]
    return (
        parts[0] if len(parts) == 1 else [np.concatenate(part) for part in zip(*parts, strict=True)]
    )


def select(arrays: Arrays, indices: list[int]) -> Arrays:
    start, end = indices[0], indices[-1] + 1
    if indices == list(range(start, end)):
        return [array[start:end] for array in arrays]
    return [array[indices] for array in arrays]
