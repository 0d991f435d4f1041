"""From an exit's logits to calibrated probabilities and their confidence."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

Measure = Literal["max_probability", "margin"]
"""What confidence is: the largest probability, or how far it is above the second largest."""


def calibrated_probabilities(logits: Floats, calibration_temperature: float) -> Floats:
    """Softmax of the logits divided by the calibration temperature: (rows, classes)."""
    return softmax(logits, calibration_temperature, "max_probability")[0]


def softmax(
    logits: Floats, calibration_temperature: float, measure: Measure
) -> tuple[Floats, list[float]]:
    """Calibrated probabilities, (rows, classes), and the confidence of each row.

    The largest probability is that of the largest logit, whose exponential is 1 here. `reduce` is
    what `max` and `sum` call, each through a function in Python.
    """
    scaled = logits * np.float32(1 / calibration_temperature)
    scaled -= np.maximum.reduce(scaled, axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    shares = np.reciprocal(np.add.reduce(scaled, axis=1, keepdims=True))
    scaled *= shares
    confidences = shares[:, 0] if measure == "max_probability" else confidence(scaled, measure)
    return scaled, confidences.tolist()


def confidence(probabilities: Floats, measure: Measure) -> Floats:
    """The confidence of each row of (rows, classes), at least two classes: (rows,), 0 to 1."""
    if measure == "margin":
        two = np.partition(probabilities, -2, axis=1)[:, -2:]
        margins: Floats = two[:, 1] - two[:, 0]
        return margins
    largest: Floats = probabilities.max(axis=1)
    return largest
