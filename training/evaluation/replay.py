"""Rows sent through the served stop rule."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.policy import Policy, StopReason, heads_without_budget, stop_reason
from models.bundle.records import Record


class PolicyResult(Record):
    """A policy over the whole split; `agreement` is the share of the last exit's answers."""

    accuracy: float
    agreement: float
    mean_macs: float
    exit_shares: list[float]
    stop_reasons: dict[str, int]


def run_policy(
    bundle: Bundle,
    policy: Policy,
    confidences: NDArray[np.floating],
    is_right: NDArray[np.bool_],
    agrees: NDArray[np.bool_],
) -> PolicyResult:
    """Sends every row through the stop rule; all arrays are (rows, exits).

    `agrees` says whether an exit's answer is the last one's.
    """
    segments = np.cumsum([graph.macs for graph in bundle.manifest.segments])
    heads = [graph.macs for graph in bundle.manifest.exit_heads]
    exits: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    macs = hits = num_agreeing = 0
    for row, row_confidences in enumerate(confidences.tolist()):
        ran, reason = walk(policy, row_confidences)
        exit = ran[-1]
        exits[exit] += 1
        reasons[reason] += 1
        macs += int(segments[exit - 1]) + sum(heads[k - 1] for k in ran)
        hits += bool(is_right[row, exit - 1])
        num_agreeing += bool(agrees[row, exit - 1])
    rows = len(confidences)
    return PolicyResult(
        accuracy=hits / rows,
        agreement=num_agreeing / rows,
        mean_macs=macs / rows,
        exit_shares=[exits[k] / rows for k in range(1, policy.num_exits + 1)],
        stop_reasons=dict(reasons),
    )


def walk(policy: Policy, confidences: list[float]) -> tuple[list[int], StopReason]:
    """The heads that run for one row without a budget, and why it stopped at the last of them."""
    ran = []
    for exit, limit in heads_without_budget(policy):
        ran.append(exit)
        reason = stop_reason(policy, exit, confidences[exit - 1], limit)
        if reason is not None:
            return ran, reason
    raise AssertionError("the last exit always answers")
