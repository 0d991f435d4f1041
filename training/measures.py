"""Measures of exits against labels."""

import numpy as np
from numpy.typing import NDArray

from models.bundle.confidence import Floats

Labels = NDArray[np.int64]


def top_k_accuracy(scores: Floats, labels: Labels, k: int) -> float:
    """Share of rows whose label is among the k highest scores; `scores` is (rows, classes)."""
    k = min(k, scores.shape[1])
    top = np.argpartition(scores, -k, axis=1)[:, -k:]
    return float((top == labels[:, None]).any(axis=1).mean())


def expected_calibration_error(
    confidences: NDArray[np.floating], is_right: NDArray[np.bool_], num_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by their rows."""
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=is_right - confidences, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidences))


def reliability(
    confidences: NDArray[np.floating], is_right: NDArray[np.bool_], num_bins: int = 10
) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and rows of every bin that has any."""
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    members = [bins == b for b in np.unique(bins)]
    return [
        (float(confidences[m].mean()), float(is_right[m].mean()), int(m.sum())) for m in members
    ]
