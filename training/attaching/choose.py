"""Which exits pay: the choice of cuts by what a request is expected to cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.bundle.confidence import Floats, calibrated_probabilities, confidence
from models.bundle.cost_profile import CostProfile
from training.attaching.errors import AttachError
from training.exporting.calibrate import DISAGREEMENTS, agreement_temperatures
from training.exporting.operating_points import THRESHOLDS, SplitView, cheapest

MAX_EARLY = 5
"""Exits before the last that are tried where their number is left open."""
MAX_ROWS = 1000
WORTH_AN_EXIT = 0.01
"""Of the whole network's cost: what one exit more must save."""
WORTH_IT = 0.05
"""What all of them together must save."""


@dataclass(frozen=True)
class Choice:
    """Candidates, by their position, that become exits, and the seconds a request should take.

    `whole_s` is what the network takes uncut.
    """

    exits: tuple[int, ...]
    expected_s: float
    whole_s: float

    @property
    def saving(self) -> float:
        return 1 - self.expected_s / self.whole_s


@dataclass(frozen=True)
class Tuning:
    """What every candidate's head said of rows that tune, and what the pieces cost here.

    `confidences`, which are the largest probabilities, and `agrees`, with the last exit, are (rows,
    candidates and the last exit).
    `segments` and `heads` are nanoseconds, one for each of them.
    """

    confidences: NDArray[np.floating]
    agrees: NDArray[np.bool_]
    segments: NDArray[np.int64]
    heads: NDArray[np.int64]

    @classmethod
    def of(cls, logits: Sequence[Floats], cost: CostProfile, rows: NDArray[np.int64]) -> Self:
        temperatures = agreement_temperatures(logits, rows)
        segments, heads = (
            np.array([round(1e9 * graph.median_s[0]) for graph in graphs])
            for graphs in (cost.segments, cost.exit_heads)
        )
        confidences = [
            confidence(calibrated_probabilities(z[rows], t), "max_probability")
            for z, t in zip(logits, temperatures, strict=True)
        ]
        agrees = [z[rows].argmax(1) == logits[-1][rows].argmax(1) for z in logits]
        return cls(np.stack(confidences, axis=1), np.stack(agrees, axis=1), segments, heads)

    def expected_s(self, exits: tuple[int, ...]) -> float:
        """Mean seconds of a request with these exits, at the cheapest threshold that agrees."""
        kept = [*exits, len(self.segments) - 1]
        segments = np.diff(np.cumsum(self.segments)[kept], prepend=0)
        right = self.agrees[:, kept]
        split = SplitView(
            self.confidences[:, kept], right, right.astype(float), segments, self.heads[kept]
        )
        tried = (np.full(len(exits), threshold) for threshold in THRESHOLDS)
        return cheapest(split, tried, DISAGREEMENTS["balanced"]).mean_macs / 1e9


def is_worth_more(found: Choice, best: Choice) -> bool:
    """Whether every exit that `found` has more saves its share of the whole network's cost."""
    num_more = len(found.exits) - len(best.exits)
    return best.expected_s - found.expected_s > num_more * WORTH_AN_EXIT * best.whole_s


def choose(
    logits: Sequence[Floats],
    cost: CostProfile,
    whole_s: float,
    rows: NDArray[np.int64],
    num_exits: int | None,
) -> Choice:
    """The exits with which a request is expected to cost least, on rows that tune.

    `logits` are those of every candidate's head and of the last exit; `cost` that of all pieces
    between the candidates. Agreement with the last exit is what `balanced` asks. Where `num_exits`
    is open, one exit more must save `WORTH_AN_EXIT`.
    """
    tuning = Tuning.of(logits, cost, rows[:MAX_ROWS])
    num_candidates = len(logits) - 1
    if num_exits is not None and not 1 < num_exits <= num_candidates + 1:
        raise AttachError(
            f"--exits {num_exits} is not possible: this network takes 2 to {num_candidates + 1}"
        )
    sizes = range(1, MAX_EARLY + 1) if num_exits is None else [num_exits - 1]
    best: Choice | None = None
    for size in sizes:
        found = min(
            (
                Choice(exits, tuning.expected_s(exits), whole_s)
                for exits in combinations(range(num_candidates), size)
            ),
            key=lambda choice: choice.expected_s,
            default=None,
        )
        if found and (best is None or is_worth_more(found, best)):
            best = found
    if best is None:
        raise AttachError("the network has no place where it could be cut")
    return best
