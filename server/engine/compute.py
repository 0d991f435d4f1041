"""Running a step for a batch. Pure: it changes no job and no cost, and any thread may do it.

Seconds are by the runner's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite

import numpy as np
import onnxruntime as ort

from models.bundle.confidence import Floats, softmax
from models.bundle.runner import Arrays
from server.engine.job import Row
from server.engine.model import ServedModel


@dataclass(slots=True)
class Task:
    """A lane's task: run segment `exit` for `rows`, then its head for some of them.

    `head_rows` are indices into `rows`. With `is_head` the rows hold the features of the exit, and
    the head alone runs.
    """

    model: ServedModel
    exit: int
    is_head: bool
    rows: Sequence[Row]
    head_rows: Sequence[int]


@dataclass(slots=True)
class Computed:
    """A task's results; `failure` is the error of the segment, `head_failure` that of the head.

    `probabilities` are (head rows, classes), in the order of the task's `head_rows`. A row has no
    answer where its confidence is NaN: large numbers in it may have overflowed on the way.
    """

    features: Arrays | None = None
    segment_s: float = 0.0
    probabilities: Floats | None = None
    confidences: Sequence[float] = ()
    head_s: float = 0.0
    failure: Exception | None = None
    head_failure: Exception | None = None


def compute(task: Task, options: ort.RunOptions) -> Computed:
    """Runs the segment and the head; an error becomes part of the result."""
    computed = Computed()
    clock = task.model.runner.clock
    start = clock()
    try:
        features = gather(task.rows)
        if not task.is_head:
            features = task.model.runner.run_segment(task.exit, features, options)
    except Exception as error:  # onnxruntime's errors have no common base
        computed.failure = error
        return computed
    computed.features, between = features, clock()
    computed.segment_s = between - start
    if task.head_rows:
        try:
            _run_head(task, features, computed, options)
        except Exception as error:
            computed.head_failure = error
        computed.head_s = clock() - between
    return computed


def _run_head(task: Task, features: Arrays, computed: Computed, options: ort.RunOptions) -> None:
    """Raises FloatingPointError where no row has logits that are numbers."""
    if len(task.head_rows) < len(task.rows):
        features = select(features, task.head_rows)
    logits = task.model.runner.run_head(task.exit, features, options)
    calibration = task.model.bundle.calibration
    temperature = calibration.exits[task.exit - 1].calibration_temperature
    probabilities, confidences = softmax(logits, temperature, calibration.confidence)
    if not any(map(isfinite, confidences)):
        raise FloatingPointError("logits are not finite")
    computed.probabilities, computed.confidences = probabilities, confidences


def gather(rows: Sequence[Row]) -> Arrays:
    """Rows of several batches as one; rows that lie together in one of them are not copied."""
    if len(rows) == 1:
        return [array[rows[0].index : rows[0].index + 1] for array in rows[0].arrays]
    parts = [
        select(same[0].arrays, [row.index for row in same])
        for same in (list(group) for _, group in groupby(rows, lambda row: id(row.arrays)))
    ]
    return (
        parts[0] if len(parts) == 1 else [np.concatenate(part) for part in zip(*parts, strict=True)]
    )


def select(arrays: Arrays, indices: Sequence[int]) -> Arrays:
    """Some rows of each array: a view where they are consecutive."""
    start, end = indices[0], indices[-1] + 1
    if list(indices) == list(range(start, end)):
        return [array[start:end] for array in arrays]
    return [array[list(indices)] for array in arrays]
