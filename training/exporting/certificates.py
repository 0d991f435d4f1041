"""How much accuracy stopping early can cost: bounds that hold on finitely many rows.

A policy's losses are one number per row: 1 where the last exit is right and the answer is not, -1
where it is the other way round, 0 elsewhere. Their expectation is the accuracy that stopping early
costs. What is said here of them holds with probability 1 - `delta` over the draw of the rows, which
must come in random order and have had no part in choosing the policy.
"""

from collections.abc import Iterable
from math import log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Losses = NDArray[np.floating]

MAX_STAKE = 0.9  # below 1, so that no single loss takes everything


def log_wealth(losses: Losses, mean: float, delta: float) -> float:
    """The most that 1, staked row after row on an expected loss below `mean`, ever grew to.

    Given as a logarithm; `mean` is in [0, 1]. Each stake depends on earlier rows alone, so if the
    expected loss is `mean` or more, this exceeds log(1 / delta) with probability at most `delta`
    (the betting bound of Waudby-Smith & Ramdas, 2024, and its predictable stakes).
    """
    num_seen = np.arange(1, len(losses) + 1)
    means = np.cumsum(losses) / (num_seen + 1)
    variances = (0.25 + np.cumsum((losses - means) ** 2)) / (num_seen + 1)
    before = np.append(0.25, variances[:-1])
    stakes = np.minimum(np.sqrt(2 * log(1 / delta) / (len(losses) * before)), MAX_STAKE)
    return float(np.log1p(-stakes * (losses - mean)).cumsum().max())


def upper_bound(losses: Losses, delta: float) -> float:
    """An upper confidence bound, at level 1 - `delta`, on the expected loss, in [0, 1]."""

    def surplus(mean: float) -> float:
        return log_wealth(losses, mean, delta) - log(1 / delta)

    if surplus(0.0) >= 0:
        return 0.0
    if surplus(1.0) <= 0:
        return 1.0
    return float(brentq(surplus, 0.0, 1.0))


def certified_index(path: Iterable[Losses], epsilon: float, delta: float) -> int | None:
    """The last policy before the first whose upper bound exceeds `epsilon`; None if that is first.

    `path` gives the losses of one policy after the other, in an order fixed beforehand, safest
    first. The expected loss of the one named exceeds `epsilon` with probability at most `delta`,
    since the first policy on the path that loses too much would have to pass for that (the
    fixed-sequence test of Angelopoulos et al., 2021; Jazbec et al., 2024, use it for early exits).
    """
    certified = None
    for index, losses in enumerate(path):
        if log_wealth(losses, epsilon, delta) < log(1 / delta):
            break
        certified = index
    return certified
