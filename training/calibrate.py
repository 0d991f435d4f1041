"""Calibration temperatures, and operating points for the served stop rule.

Everything here is fitted on the calibration split alone.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from models.bundle.confidence import Floats, calibrated_probabilities, confidence
from models.bundle.manifest import (
    SCHEMA_VERSION,
    Calibration,
    ExitCalibration,
    Graph,
    OperatingPoint,
)

Labels = NDArray[np.int64]

ACCURACY_DROPS = {"fast": 0.03, "balanced": 0.005, "accurate": 0.0}
"""What each operating point may lose against the last exit, estimated on the calibration split."""

THRESHOLDS = np.round(np.arange(0.0, 1.0, 0.01), 2)


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The calibration temperature with the least negative log-likelihood (Guo et al., 2017)."""

    def nll(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-log_probabilities[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(nll, bounds=(-3, 3), method="bounded").x))


def expected_calibration_error(
    confidences: NDArray[np.floating], correct: NDArray[np.bool_], num_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by their rows."""
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, weights=correct - confidences, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidences))


def calibrate(
    logits: Sequence[Floats], labels: Labels, segments: Sequence[Graph], heads: Sequence[Graph]
) -> Calibration:
    """Fits everything the stop rule needs; `logits` has one (rows, classes) array per exit."""
    temperatures = [fit_temperature(z, labels) for z in logits]
    probabilities = [
        calibrated_probabilities(z, t) for z, t in zip(logits, temperatures, strict=True)
    ]
    chances = chances_of_being_right(probabilities, labels)
    candidates = operating_points(
        np.stack([confidence(p) for p in probabilities], axis=1),
        chances,
        np.array([graph.macs for graph in segments]),
        np.array([graph.macs for graph in heads]),
    )
    last_accuracy = float(chances[:, -1].mean())
    return Calibration(
        schema_version=SCHEMA_VERSION,
        confidence="max_probability",
        num_rows=len(labels),
        exits=tuple(
            exit_calibration(exit, z, t, labels)
            for exit, (z, t) in enumerate(zip(logits, temperatures, strict=True), start=1)
        ),
        operating_points={
            name: cheapest(candidates, last_accuracy - drop)
            for name, drop in ACCURACY_DROPS.items()
        },
    )


def exit_calibration(
    exit: int, logits: Floats, calibration_temperature: float, labels: Labels
) -> ExitCalibration:
    """How one exit does with and without its calibration temperature."""
    is_right = logits.argmax(axis=1) == labels
    ece_before, ece = (
        expected_calibration_error(confidence(calibrated_probabilities(logits, t)), is_right)
        for t in (1.0, calibration_temperature)
    )
    return ExitCalibration(
        exit=exit,
        calibration_temperature=calibration_temperature,
        accuracy=float(is_right.mean()),
        ece_before=ece_before,
        ece=ece,
    )


def chances_of_being_right(probabilities: Sequence[Floats], labels: Labels) -> NDArray[np.float64]:
    """An estimate for every row and exit, (rows, exits), that the exit's answer is right.

    Halfway between the label's verdict and what the last exit, calibrated, gives that answer. The
    verdict alone is so noisy that the cheapest of thousands of candidates is one that was lucky;
    the last exit's probability hardly varies, but takes every disagreement with it for an error.
    """
    answers = np.stack([p.argmax(axis=1) for p in probabilities], axis=1)
    by_last_exit = np.take_along_axis(probabilities[-1].astype(np.float64), answers, axis=1)
    chances: NDArray[np.float64] = (by_last_exit + (answers == labels[:, None])) / 2
    return chances


def operating_points(
    confidences: NDArray[np.floating],
    chances: NDArray[np.floating] | NDArray[np.bool_],
    segment_macs: NDArray[np.int64],
    head_macs: NDArray[np.int64],
) -> list[OperatingPoint]:
    """Every choice of exits to consult, with every common threshold, and what it would give.

    `confidences` and `chances` of being right are (rows, exits). Includes never stopping early.
    """
    num_exits = len(segment_macs)
    points = [_point(confidences, chances, segment_macs, head_macs, (num_exits,), 1.0)]
    for size in range(1, num_exits):
        for early in combinations(range(1, num_exits), size):
            consulted = (*early, num_exits)
            points += [
                _point(confidences, chances, segment_macs, head_macs, consulted, threshold)
                for threshold in THRESHOLDS
            ]
    return points


def _point(
    confidences: NDArray[np.floating],
    chances: NDArray[np.floating] | NDArray[np.bool_],
    segment_macs: NDArray[np.int64],
    head_macs: NDArray[np.int64],
    consulted: tuple[int, ...],
    threshold: float,
) -> OperatingPoint:
    num_exits = len(segment_macs)
    index = np.array(consulted) - 1
    is_confident = confidences[:, index] > threshold
    is_confident[:, -1] = True
    stops = is_confident.argmax(axis=1)
    macs = np.cumsum(segment_macs)[index] + np.cumsum(head_macs[index])
    shares = np.bincount(index[stops], minlength=num_exits) / len(stops)
    return OperatingPoint(
        thresholds=(*[float(threshold)] * (num_exits - 1), None),
        consulted=consulted,
        accuracy=float(chances[np.arange(len(stops)), index[stops]].mean()),
        mean_macs=float(macs[stops].mean()),
        exit_shares=tuple(shares.tolist()),
    )


def cheapest(points: Sequence[OperatingPoint], accuracy: float) -> OperatingPoint:
    """The point with the fewest mean MACs among those that reach `accuracy`."""
    return min((p for p in points if p.accuracy >= accuracy), key=lambda p: p.mean_macs)
