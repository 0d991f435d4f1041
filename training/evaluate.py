"""What a bundle's exported segments give on labelled images, through the served stop rule."""

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from models.bundle.bundle import Bundle
from models.bundle.confidence import Floats, calibrated_probabilities, confidence
from models.bundle.manifest import Record
from models.bundle.policy import (
    Policy,
    Spend,
    StopReason,
    limit_reason,
    policy_at,
    policy_of_threshold,
    runs_head,
    stop_reason,
)
from models.bundle.runner import Arrays, SegmentRunner
from training.calibrate import Labels, expected_calibration_error

CHUNK = 100
THRESHOLDS = np.round(np.linspace(0, 1, 41), 3).tolist()
FREE = Spend(0.0, 0.0)


class ExitResult(Record):
    """One exit alone, and the mean of the probabilities of all exits so far."""

    exit: PositiveInt
    macs: int
    macs_all_heads: int
    top1: float
    top5: float
    ensemble_top1: float
    ensemble_top5: float
    ece: float
    reliability: list[tuple[float, float, int]]


class PolicyResult(Record):
    """A policy over the whole split."""

    accuracy: float
    mean_macs: float
    exit_shares: list[float]
    stop_reasons: dict[str, int]


class Report(Record):
    """Results on one split; `curve` has one policy per threshold of `curve_thresholds`."""

    model: str
    version: int
    data: str
    split: str
    num_rows: int
    exits: list[ExitResult]
    operating_points: dict[str, PolicyResult]
    curve_thresholds: list[float]
    curve: list[PolicyResult]


def all_logits(
    runner: SegmentRunner, images: NDArray[np.uint8], progress: Callable[[int], object]
) -> list[Floats]:
    """Logits of every exit, (rows, classes) each; `progress` is told of rows as they finish."""
    chunks: list[list[Floats]] = [[] for _ in range(runner.num_exits)]
    for start in range(0, len(images), CHUNK):
        features: Arrays = [images[start : start + CHUNK]]
        for exit in range(1, runner.num_exits + 1):
            features = runner.run_segment(exit, features)
            chunks[exit - 1].append(runner.run_head(exit, features))
        progress(len(features[0]))
    return [np.concatenate(logits) for logits in chunks]


def evaluate(
    bundle: Bundle, logits: list[Floats], labels: Labels, *, data: str, split: str
) -> Report:
    """The report of a bundle from the logits its segments gave."""
    temperatures = [e.calibration_temperature for e in bundle.calibration.exits]
    probabilities = [
        calibrated_probabilities(z, t) for z, t in zip(logits, temperatures, strict=True)
    ]
    confidences = np.stack([confidence(p) for p in probabilities], axis=1)
    is_correct = np.stack([z.argmax(axis=1) == labels for z in logits], axis=1)
    num_exits = len(logits)
    return Report(
        model=bundle.manifest.name,
        version=bundle.manifest.version,
        data=data,
        split=split,
        num_rows=len(labels),
        exits=exit_results(bundle, probabilities, labels),
        operating_points={
            name: run_policy(bundle, policy_at(point), confidences, is_correct)
            for name, point in bundle.calibration.operating_points.items()
        },
        curve_thresholds=THRESHOLDS,
        curve=[
            run_policy(bundle, policy_of_threshold(t, num_exits), confidences, is_correct)
            for t in THRESHOLDS
        ],
    )


def exit_results(bundle: Bundle, probabilities: list[Floats], labels: Labels) -> list[ExitResult]:
    """Every exit's accuracy, alone and in the running ensemble, and its calibration."""
    segments = np.cumsum([graph.macs for graph in bundle.manifest.segments])
    heads = [graph.macs for graph in bundle.manifest.exit_heads]
    results = []
    total = np.zeros_like(probabilities[0])
    for i, p in enumerate(probabilities):
        total = total + p
        is_correct = p.argmax(axis=1) == labels
        results.append(
            ExitResult(
                exit=i + 1,
                macs=int(segments[i] + heads[i]),
                macs_all_heads=int(segments[i] + sum(heads[: i + 1])),
                top1=top_k_accuracy(p, labels, 1),
                top5=top_k_accuracy(p, labels, 5),
                ensemble_top1=top_k_accuracy(total, labels, 1),
                ensemble_top5=top_k_accuracy(total, labels, 5),
                ece=expected_calibration_error(confidence(p), is_correct),
                reliability=reliability(confidence(p), is_correct),
            )
        )
    return results


def top_k_accuracy(scores: Floats, labels: Labels, k: int) -> float:
    """Share of rows whose label is among the k highest scores."""
    k = min(k, scores.shape[1])
    top = np.argpartition(scores, -k, axis=1)[:, -k:]
    return float((top == labels[:, None]).any(axis=1).mean())


def reliability(
    confidences: NDArray[np.floating], is_correct: NDArray[np.bool_], num_bins: int = 10
) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and rows of every bin that has any."""
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)
    members = [bins == b for b in np.unique(bins)]
    return [
        (float(confidences[m].mean()), float(is_correct[m].mean()), int(m.sum())) for m in members
    ]


def run_policy(
    bundle: Bundle,
    policy: Policy,
    confidences: NDArray[np.floating],
    is_correct: NDArray[np.bool_],
) -> PolicyResult:
    """Sends every row through the stop rule; `confidences`, `is_correct`: (rows, exits)."""
    segments = np.cumsum([graph.macs for graph in bundle.manifest.segments])
    heads = [graph.macs for graph in bundle.manifest.exit_heads]
    exits: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    macs = hits = 0
    for row, row_confidences in enumerate(confidences.tolist()):
        ran, reason = walk(policy, row_confidences)
        exit = ran[-1]
        exits[exit] += 1
        reasons[reason] += 1
        macs += int(segments[exit - 1]) + sum(heads[k - 1] for k in ran)
        hits += bool(is_correct[row, exit - 1])
    rows = len(confidences)
    return PolicyResult(
        accuracy=hits / rows,
        mean_macs=macs / rows,
        exit_shares=[exits[k] / rows for k in range(1, policy.num_exits + 1)],
        stop_reasons=dict(reasons),
    )


def walk(policy: Policy, confidences: list[float]) -> tuple[list[int], StopReason]:
    """The heads that run for one row without a budget, and why it stopped at the last of them."""
    ran = []
    for exit, value in enumerate(confidences, start=1):
        limit = limit_reason(policy, exit, Spend(), FREE)
        if not runs_head(policy, exit, limit):
            continue
        ran.append(exit)
        reason = stop_reason(policy, exit, value, limit)
        if reason is not None:
            return ran, reason
    raise AssertionError("the last exit always answers")
