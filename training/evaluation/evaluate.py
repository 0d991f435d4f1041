"""What a bundle's exported segments give on labelled images, through the served stop rule."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from models.bundle.bundle import Bundle
from models.bundle.calibration import Certificate, JudgedBy
from models.bundle.confidence import Floats, Measure, calibrated_probabilities, confidence
from models.bundle.policy import policy_at, policy_of_threshold
from models.bundle.records import Record
from models.bundle.runner import Arrays, SegmentRunner
from training.evaluation.measures import (
    Labels,
    budget_exits,
    expected_calibration_error,
    failure_auroc,
    largest_falls,
    reliability,
    top_k_accuracy,
)
from training.evaluation.replay import PolicyResult, run_policy

CHUNK = 100
THRESHOLDS = np.round(np.linspace(0, 1, 41), 3).tolist()
FALLS = (0.01, 0.1, 0.2, 0.33, 0.5)  # those of Jazbec et al. (2023)


class ConfidenceResult(Record):
    """How far an exit's largest probability says whether it is right.

    AUROC is failure prediction's.
    """

    ece: float
    auroc: float | None
    reliability: list[tuple[float, float, int]]


class ExitResult(Record):
    """One exit alone, and the mean of the probabilities of all exits so far.

    `agreement` is the share of answers that are the last exit's. `budget_exit` answers in the
    paper's budget mode where the budget is this exit's MACs.
    """

    exit: PositiveInt
    macs: int
    macs_all_heads: int
    top1: float
    top5: float
    agreement: float
    budget_exit: PositiveInt
    ensemble_top1: float
    ensemble_top5: float
    uncalibrated: ConfidenceResult
    calibrated: ConfidenceResult


class FallShare(Record):
    """Share of rows whose true-class probability falls by more than `more_than` between exits."""

    more_than: float
    share: float


class Report(Record):
    """Results on one split; `curve` has one policy per threshold of `curve_thresholds`.

    Answers are right, here and where the operating points were chosen, where they equal what
    `judged_by` and `points_judged_by` name: the label, or the last exit's answer. `confidence` is
    what thresholds are compared with; `exits` judge the largest probability.
    """

    model: str
    version: int
    data: str
    split: str
    num_rows: int
    judged_by: JudgedBy
    points_judged_by: JudgedBy
    confidence: Measure = "max_probability"
    notes: tuple[str, ...] = ()
    exits: list[ExitResult]
    falls: list[FallShare]
    operating_points: dict[str, PolicyResult]
    certificates: dict[str, Certificate]
    curve_thresholds: list[float]
    curve: list[PolicyResult]


def all_logits(
    runner: SegmentRunner, images: NDArray[np.uint8], progress: Callable[[int], object]
) -> list[Floats]:
    """Logits of every exit, (rows, classes) each; `progress` is told of rows as they finish."""
    chunks = ([images[start : start + CHUNK]] for start in range(0, len(images), CHUNK))
    return logits_of_batches(runner, chunks, progress)


def logits_of_batches(
    runner: SegmentRunner,
    batches: Iterable[Arrays],
    progress: Callable[[int], object],
) -> list[Floats]:
    """The same for batches that come one at a time, as segment 1 takes them."""
    logits: list[list[Floats]] = [[] for _ in range(runner.num_exits)]
    for inputs in batches:
        for of_exit, found in zip(logits, runner.run(inputs), strict=True):
            of_exit.append(found)
        progress(len(inputs[0]))
    return [np.concatenate(each) for each in logits]


def evaluate(
    bundle: Bundle, logits: list[Floats], labels: Labels | None, *, data: str, split: str
) -> Report:
    """The report of a bundle from the logits its segments gave.

    Without labels the last exit's answers take their place.
    """
    judged_by: JudgedBy = "last_exit" if labels is None else "labels"
    last_answers: Labels = logits[-1].argmax(axis=1)
    labels = last_answers if labels is None else labels
    temperatures = [e.calibration_temperature for e in bundle.calibration.exits]
    probabilities = [
        calibrated_probabilities(z, t) for z, t in zip(logits, temperatures, strict=True)
    ]
    measure = bundle.calibration.confidence
    confidences = np.stack([confidence(p, measure) for p in probabilities], axis=1)
    answers = np.stack([z.argmax(axis=1) for z in logits], axis=1)
    is_right, agrees = answers == labels[:, None], answers == last_answers[:, None]
    points = bundle.calibration.operating_points
    return Report(
        model=bundle.manifest.name,
        version=bundle.manifest.version,
        data=data,
        split=split,
        num_rows=len(labels),
        judged_by=judged_by,
        points_judged_by=bundle.calibration.judged_by,
        confidence=measure,
        exits=exit_results(bundle, logits, probabilities, labels),
        falls=fall_shares(probabilities, labels),
        operating_points={
            name: run_policy(bundle, policy_at(point), confidences, is_right, agrees)
            for name, point in points.items()
        },
        certificates={name: p.certificate for name, p in points.items() if p.certificate},
        curve_thresholds=THRESHOLDS,
        curve=[
            run_policy(bundle, policy_of_threshold(t, len(logits)), confidences, is_right, agrees)
            for t in THRESHOLDS
        ],
    )


def exit_results(
    bundle: Bundle, logits: list[Floats], probabilities: list[Floats], labels: Labels
) -> list[ExitResult]:
    """Every exit alone, in budget mode and in the running ensemble, and its confidence."""
    segments = np.cumsum([graph.macs for graph in bundle.manifest.segments]).tolist()
    heads = [graph.macs for graph in bundle.manifest.exit_heads]
    macs = [segment + head for segment, head in zip(segments, heads, strict=True)]
    in_budget = budget_exits(macs, [e.accuracy for e in bundle.calibration.exits])
    results = []
    total = np.zeros_like(probabilities[0])
    for i, (z, p) in enumerate(zip(logits, probabilities, strict=True)):
        total = total + p
        results.append(
            ExitResult(
                exit=i + 1,
                macs=macs[i],
                macs_all_heads=segments[i] + sum(heads[: i + 1]),
                top1=top_k_accuracy(p, labels, 1),
                top5=top_k_accuracy(p, labels, 5),
                agreement=float((z.argmax(axis=1) == logits[-1].argmax(axis=1)).mean()),
                budget_exit=in_budget[i],
                ensemble_top1=top_k_accuracy(total, labels, 1),
                ensemble_top5=top_k_accuracy(total, labels, 5),
                uncalibrated=confidence_result(calibrated_probabilities(z, 1.0), labels),
                calibrated=confidence_result(p, labels),
            )
        )
    return results


def confidence_result(probabilities: Floats, labels: Labels) -> ConfidenceResult:
    """What one exit's probabilities, (rows, classes), say of its own answers."""
    confidences = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    return ConfidenceResult(
        ece=expected_calibration_error(confidences, is_right),
        auroc=failure_auroc(confidences, is_right),
        reliability=reliability(confidences, is_right),
    )


def fall_shares(probabilities: list[Floats], labels: Labels) -> list[FallShare]:
    """How often the true class's probability falls by more than each of FALLS."""
    rows = np.arange(len(labels))
    falls = largest_falls(np.stack([p[rows, labels] for p in probabilities], axis=1))
    return [FallShare(more_than=fall, share=float((falls > fall).mean())) for fall in FALLS]
