"""From an exit's logits to calibrated probabilities and their confidence."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def calibrated_probabilities(logits: Floats, calibration_temperature: float) -> Floats:
    """Softmax of the logits divided by the calibration temperature: (rows, classes)."""
    scaled = logits / np.float32(calibration_temperature)
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def confidence(probabilities: Floats) -> Floats:
    """The largest probability of each row."""
    largest: Floats = probabilities.max(axis=1)
    return largest
