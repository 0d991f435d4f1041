"""Calibration temperatures, and operating points for the served stop rule.

Everything here is fitted on the calibration split alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
from training.measures import Labels, expected_calibration_error

ACCURACY_DROPS = {"fast": 0.03, "balanced": 0.01, "accurate": 0.0}
"""What each operating point may lose against the last exit, estimated on the calibration split."""

THRESHOLDS = np.round(np.arange(0.0, 1.0, 0.01), 2)
UNCONSULTED = np.inf  # a threshold at an exit whose head never runs
NEVER = -np.inf  # the last exit always answers
PRICES = np.geomspace(0.01, 0.5, 25)
"""What the whole network's MACs may be worth, in accuracy, when thresholds are tuned."""
MAX_SWEEPS = 4


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The calibration temperature with the least negative log-likelihood (Guo et al., 2017)."""

    def nll(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-log_probabilities[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(nll, bounds=(-3, 3), method="bounded").x))


def calibrate(
    logits: Sequence[Floats], labels: Labels, segments: Sequence[Graph], heads: Sequence[Graph]
) -> Calibration:
    """Fits everything the stop rule needs; `logits` has one (rows, classes) array per exit."""
    temperatures = [fit_temperature(z, labels) for z in logits]
    probabilities = [
        calibrated_probabilities(z, t) for z, t in zip(logits, temperatures, strict=True)
    ]
    chances = chances_of_being_right(probabilities, labels)
    confidences = np.stack([confidence(p) for p in probabilities], axis=1)
    macs = np.array([g.macs for g in segments]), np.array([g.macs for g in heads])
    candidates = [
        *operating_points(confidences, chances, *macs),
        *tuned_points(confidences, chances, *macs),
    ]
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
    split = _Split(confidences, chances, segment_macs, head_macs)
    early = range(split.num_exits - 1)
    points = [split.point(np.full(len(early), UNCONSULTED))]
    for size in range(1, split.num_exits):
        for consulted in combinations(early, size):
            for threshold in THRESHOLDS:
                thresholds = np.full(len(early), UNCONSULTED)
                thresholds[list(consulted)] = threshold
                points.append(split.point(thresholds))
    return points


def tuned_points(
    confidences: NDArray[np.floating],
    chances: NDArray[np.floating] | NDArray[np.bool_],
    segment_macs: NDArray[np.int64],
    head_macs: NDArray[np.int64],
) -> list[OperatingPoint]:
    """The best of a search over a threshold per exit: none is both dearer and worse than another.

    Coordinate ascent on the mean chance of being right less a price of the mean MACs, for many
    prices: each exit in turn takes its best threshold, or is not consulted. Every step counts.
    """
    split = _Split(confidences, chances, segment_macs, head_macs)
    full_macs = segment_macs.sum() + head_macs[-1]
    options = np.append(THRESHOLDS[::2], UNCONSULTED)
    tried: list[tuple[float, float, NDArray[np.float64]]] = []
    for price in PRICES:
        thresholds = np.full(split.num_exits - 1, 0.6)
        for _ in range(MAX_SWEEPS):
            before = thresholds.copy()
            for exit in range(len(thresholds)):
                gains = []
                for thresholds[exit] in options:
                    chance, macs, _ = split.walk(thresholds)
                    tried.append((macs, -chance, thresholds.copy()))
                    gains.append(chance - price * macs / full_macs)
                thresholds[exit] = options[int(np.argmax(gains))]
            if (thresholds == before).all():
                break
    front, best = [], -np.inf
    for _, loss, thresholds in sorted(tried, key=lambda entry: entry[:2]):
        if -loss > best:
            front.append(split.point(thresholds))
            best = -loss
    return front


@dataclass(frozen=True)
class _Split:
    """The calibration split as the stop rule sees it, and what thresholds would give there."""

    confidences: NDArray[np.floating]
    chances: NDArray[np.floating] | NDArray[np.bool_]
    segment_macs: NDArray[np.int64]
    head_macs: NDArray[np.int64]

    @property
    def num_exits(self) -> int:
        return len(self.segment_macs)

    def walk(self, thresholds: NDArray[np.floating]) -> tuple[float, float, NDArray[np.int64]]:
        """Mean chance of being right, mean MACs, and the index of the exit where each row stops."""
        index = np.append(np.flatnonzero(thresholds < UNCONSULTED), self.num_exits - 1)
        is_confident = self.confidences[:, index] > np.append(thresholds, NEVER)[index]
        stops = is_confident.argmax(axis=1)
        macs = np.cumsum(self.segment_macs)[index] + np.cumsum(self.head_macs[index])
        chances = self.chances[np.arange(len(stops)), index[stops]]
        return float(chances.mean()), float(macs[stops].mean()), index[stops]

    def point(self, thresholds: NDArray[np.floating]) -> OperatingPoint:
        chance, macs, stops = self.walk(thresholds)
        shares = np.bincount(stops, minlength=self.num_exits) / len(stops)
        early = np.flatnonzero(thresholds < UNCONSULTED) + 1
        return OperatingPoint(
            thresholds=(*np.minimum(thresholds, 1.0).tolist(), None),
            consulted=(*early.tolist(), self.num_exits),
            accuracy=chance,
            mean_macs=macs,
            exit_shares=tuple(shares.tolist()),
        )


def cheapest(points: Sequence[OperatingPoint], accuracy: float) -> OperatingPoint:
    """The point with the fewest mean MACs among those that reach `accuracy`."""
    return min((p for p in points if p.accuracy >= accuracy), key=lambda p: p.mean_macs)
