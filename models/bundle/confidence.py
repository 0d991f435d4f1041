"""From an exit's logits to calibrated probabilities and their confidence."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def calibrated_probabilities(logits: Floats, calibration_temperature: float) -> Floats:
    """Softmax of the logits divided by the calibration temperature: (rows, classes)."""
    return softmax(logits, calibration_temperature)[0]


def softmax(logits: Floats, calibration_temperature: float) -> tuple[Floats, list[float]]:
    """Calibrated probabilities, (rows, classes), and the confidence of each row.

    The largest probability is that of the largest logit, whose exponential is 1 here. `reduce` is
    what `max` and `sum` call, each through a function in Python.
    """
    scaled = logits * np.float32(1 / calibration_temperature)
    scaled -= np.maximum.reduce(scaled, axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    shares = np.reciprocal(np.add.reduce(scaled, axis=1, keepdims=True))
    scaled *= shares
    return scaled, shares[:, 0].tolist()


def confidence(probabilities: Floats) -> Floats:
    """The largest probability of each row."""
    largest: Floats = probabilities.max(axis=1)
    return largest
