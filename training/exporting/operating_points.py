"""The search for operating points: a threshold per exit, and which exits to consult at all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from models.bundle.calibration import Certificate, OperatingPoint
from models.bundle.confidence import Floats

Thresholds = NDArray[np.float64]

THRESHOLDS = np.round(np.arange(0.0, 1.0, 0.02), 2)
UNCONSULTED = np.inf  # a threshold at an exit whose head never runs
NEVER = -np.inf  # the last exit always answers
PRICES = np.geomspace(0.01, 0.5, 25)
"""What the whole network's MACs may be worth, in accuracy, when thresholds are tuned."""
MAX_SWEEPS = 4
STANDARD_ERRORS = 2.5
"""Added to an estimated loss. The rows that estimate it have chosen the thresholds, which fit their
noise: with fewer, points lose more than they may in too many draws of the rows (docs/results.md,
How operating points are fitted)."""


class Candidate(NamedTuple):
    """Thresholds of every exit but the last, and what they give: chance of being right and MACs."""

    thresholds: Thresholds
    chance: float
    mean_macs: float


@dataclass(frozen=True)
class SplitView:
    """Labelled rows as the stop rule sees them, and what thresholds would give there.

    `confidences`, `is_right` and the estimated `chances` of being right are (rows, exits),
    `segment_macs` and `head_macs` (exits,).
    """

    confidences: NDArray[np.floating]
    is_right: NDArray[np.bool_]
    chances: NDArray[np.floating]
    segment_macs: NDArray[np.int64]
    head_macs: NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        return len(self.confidences)

    @property
    def num_exits(self) -> int:
        return len(self.segment_macs)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the rows."""
        return type(self)(
            self.confidences[rows],
            self.is_right[rows],
            self.chances[rows],
            self.segment_macs,
            self.head_macs,
        )

    def walk(self, thresholds: Thresholds) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index of the exit where each row stops, and the MACs it takes to get there."""
        index = np.append(np.flatnonzero(thresholds < UNCONSULTED), self.num_exits - 1)
        is_confident = self.confidences[:, index] > np.append(thresholds, NEVER)[index]
        stops = is_confident.argmax(axis=1)
        macs = np.cumsum(self.segment_macs)[index] + np.cumsum(self.head_macs[index])
        return index[stops], macs[stops]

    def candidate(self, thresholds: Thresholds) -> Candidate:
        stops, macs = self.walk(thresholds)
        chance = at_stops(self.chances, stops).mean()
        return Candidate(thresholds.copy(), float(chance), float(macs.mean()))

    def losses(self, thresholds: Thresholds) -> NDArray[np.floating]:
        """1 where only the last exit is right, -1 where only the answer is, else 0: (rows,)."""
        return self._lost(self.is_right.astype(np.float64), thresholds)

    def estimated_losses(self, thresholds: Thresholds) -> NDArray[np.floating]:
        """The last exit's chance of being right, less that of the answer given: (rows,)."""
        return self._lost(self.chances, thresholds)

    def _lost(self, right: NDArray[np.floating], thresholds: Thresholds) -> NDArray[np.floating]:
        stops, _ = self.walk(thresholds)
        lost: NDArray[np.floating] = right[:, -1] - at_stops(right, stops)
        return lost

    def point(self, thresholds: Thresholds, certificate: Certificate | None) -> OperatingPoint:
        stops, macs = self.walk(thresholds)
        shares = np.bincount(stops, minlength=self.num_exits) / self.num_rows
        early = np.flatnonzero(thresholds < UNCONSULTED) + 1
        return OperatingPoint(
            thresholds=(*np.minimum(thresholds, 1.0).tolist(), None),
            consulted=(*early.tolist(), self.num_exits),
            accuracy=float(at_stops(self.is_right, stops).mean()),
            mean_macs=float(macs.mean()),
            exit_shares=tuple(shares.tolist()),
            certificate=certificate,
        )


def at_stops(values: NDArray[Any], stops: NDArray[np.int64]) -> NDArray[Any]:
    """Of (rows, exits) each row's value at the exit where it stops, given by index."""
    return values[np.arange(len(values)), stops]


def chances_of_being_right(probabilities: Sequence[Floats]) -> NDArray[np.float64]:
    """An estimate for every row and exit, (rows, exits), that the exit's answer is right.

    It is what the last exit, calibrated, gives that answer. Labels would be right on average, but
    so noisy that the cheapest of thousands of candidates is one that was lucky.
    """
    answers = np.stack([p.argmax(axis=1) for p in probabilities], axis=1)
    return np.take_along_axis(probabilities[-1].astype(np.float64), answers, axis=1)


def never_early(num_exits: int) -> Thresholds:
    """The thresholds that send every row to the last exit."""
    return np.full(num_exits - 1, UNCONSULTED)


def stops_early(thresholds: Thresholds) -> bool:
    """Whether any exit but the last is consulted."""
    return bool((thresholds < UNCONSULTED).any())


def tuned_candidates(split: SplitView) -> list[Candidate]:
    """The best of a search over a threshold per exit: cheapest first, each better than the last.

    Coordinate ascent on the mean chance of being right less a price of the mean MACs, for many
    prices: each exit in turn takes its best threshold, or is not consulted. Every vector of
    thresholds on the way is a candidate, and is worked out once.
    """
    full_macs = split.segment_macs.sum() + split.head_macs[-1]
    options = np.append(THRESHOLDS, UNCONSULTED)
    tried: dict[bytes, Candidate] = {}
    for price in PRICES:
        thresholds = np.full(split.num_exits - 1, 0.6)
        for _ in range(MAX_SWEEPS):
            before = thresholds.copy()
            for exit in range(len(thresholds)):
                gains = []
                for thresholds[exit] in options:
                    step = thresholds.tobytes()
                    if step not in tried:
                        tried[step] = split.candidate(thresholds)
                    gains.append(tried[step].chance - price * tried[step].mean_macs / full_macs)
                thresholds[exit] = options[int(np.argmax(gains))]
            if (thresholds == before).all():
                break
    front: list[Candidate] = []
    for candidate in sorted(tried.values(), key=lambda c: (c.mean_macs, -c.chance)):
        if not front or candidate.chance > front[-1].chance:
            front.append(candidate)
    return front


def cheapest(
    split: SplitView,
    paths: Iterable[Thresholds],
    max_loss: float,
    standard_errors: float = STANDARD_ERRORS,
) -> Candidate:
    """The first thresholds whose estimated loss, and something to spare, is at most `max_loss`.

    `paths` come cheapest first. To spare are standard errors and, since few rows may lose
    nothing by luck, one row more that loses its answer. Where none passes, no row stops early.
    """
    for thresholds in paths:
        losses = split.estimated_losses(thresholds)
        spare = standard_errors * losses.std() / np.sqrt(split.num_rows) + 1 / split.num_rows
        if losses.mean() + spare <= max_loss:
            return split.candidate(thresholds)
    return split.candidate(never_early(split.num_exits))
