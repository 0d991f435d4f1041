"""What a bundle's exported segments give on labelled images, through the served stop rule."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from models.bundle.bundle import Bundle
from models.bundle.confidence import Floats, calibrated_probabilities, confidence
from models.bundle.manifest import Record
from models.bundle.policy import policy_at, policy_of_threshold
from models.bundle.runner import Arrays, SegmentRunner
from training.measures import (
    Labels,
    expected_calibration_error,
    reliability,
    top_k_accuracy,
)
from training.replay import PolicyResult, run_policy

CHUNK = 100
THRESHOLDS = np.round(np.linspace(0, 1, 41), 3).tolist()


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
    is_right = np.stack([z.argmax(axis=1) == labels for z in logits], axis=1)
    num_exits = len(logits)
    return Report(
        model=bundle.manifest.name,
        version=bundle.manifest.version,
        data=data,
        split=split,
        num_rows=len(labels),
        exits=exit_results(bundle, probabilities, labels),
        operating_points={
            name: run_policy(bundle, policy_at(point), confidences, is_right)
            for name, point in bundle.calibration.operating_points.items()
        },
        curve_thresholds=THRESHOLDS,
        curve=[
            run_policy(bundle, policy_of_threshold(t, num_exits), confidences, is_right)
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
        is_right = p.argmax(axis=1) == labels
        results.append(
            ExitResult(
                exit=i + 1,
                macs=int(segments[i] + heads[i]),
                macs_all_heads=int(segments[i] + sum(heads[: i + 1])),
                top1=top_k_accuracy(p, labels, 1),
                top5=top_k_accuracy(p, labels, 5),
                ensemble_top1=top_k_accuracy(total, labels, 1),
                ensemble_top5=top_k_accuracy(total, labels, 5),
                ece=expected_calibration_error(confidence(p), is_right),
                reliability=reliability(confidence(p), is_right),
            )
        )
    return results
