"""Measures of exits against labels; docs/evaluation.md defines them for people."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.bundle.confidence import Floats

Labels = NDArray[np.int64]


def top_k_accuracy(scores: Floats, labels: Labels, k: int) -> float:
    """Share of rows whose label is among the k highest scores; `scores` is (rows, classes).

    Of equal scores the first label's is higher, as in the server's answers.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    is_earlier = np.arange(scores.shape[1]) < labels[:, None]
    num_higher = np.where(is_earlier, scores >= own, scores > own).sum(axis=1)
    return float((num_higher < k).mean())


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


def failure_auroc(confidences: NDArray[np.floating], is_right: NDArray[np.bool_]) -> float | None:
    """The chance that a right answer is more confident than a wrong one, ties counting half.

    None where all answers are right or all are wrong.
    """
    if is_right.all() or not is_right.any():
        return None
    return float(roc_auc_score(is_right, confidences))


def largest_falls(true_probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """How far each row's true-class probability falls at most from an exit to any later one.

    `true_probabilities` is (rows, exits); the answer, (rows,), is 0 where it never falls. A row
    counts as non-monotone beyond d in Jazbec et al. (2023) if this exceeds d.
    """
    best_so_far = np.maximum.accumulate(true_probabilities, axis=1)
    falls: NDArray[np.floating] = (best_so_far - true_probabilities).max(axis=1)
    return falls


def budget_exits(macs: Sequence[int], accuracies: Sequence[float]) -> list[int]:
    """The exit that answers in the paper's budget mode when the budget is what each exit costs.

    It is the one with the best validated accuracy among those that fit, the cheapest on a tie.
    """
    exits = range(1, len(macs) + 1)
    return [
        max(
            (k for k in exits if macs[k - 1] <= budget),
            key=lambda k: (accuracies[k - 1], -macs[k - 1]),
        )
        for budget in macs
    ]
