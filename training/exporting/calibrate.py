"""Calibration temperatures, the measure of confidence, and operating points with certificates.

Everything here is fitted on the calibration split alone: one half of its rows tunes, the other
certifies what was tuned.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from models.bundle.calibration import (
    Calibration,
    CalibrationRows,
    Certificate,
    ExitCalibration,
    JudgedBy,
    OperatingPoint,
)
from models.bundle.confidence import Floats, Measure, calibrated_probabilities, confidence
from models.bundle.records import SCHEMA_VERSION, Graph
from training.evaluation.measures import Labels, expected_calibration_error
from training.exporting.certificates import certified_index, upper_bound
from training.exporting.operating_points import (
    Candidate,
    SplitView,
    Thresholds,
    chances_of_being_right,
    cheapest,
    never_early,
    stops_early,
    tuned_candidates,
)

Rows = NDArray[np.int64]

ACCURACY_DROPS = {"fast": 0.03, "balanced": 0.005, "accurate": 0.002}
"""What each operating point may lose against the last exit."""

DISAGREEMENTS = {"fast": 0.08, "balanced": 0.02, "accurate": 0.01}
"""Shares of answers that may differ from the last exit's, where there are no labels.

Of those that differ some are right where the last exit is wrong, and some are wrong both times: the
accuracy lost is a part of the share."""

MIN_SAVING = 0.01
"""Share of `balanced`'s MACs that the margin must save to be the measure of confidence: the largest
probability says more to people."""

CERTIFIED = "certified"
MAX_ACCURACY_DROP = 0.02
"""What the operating point `certified` may lose. On 1,250 rows, half of what calibrates CIFAR-100,
a loss of 1 point can hardly be told from none."""
DELTA = 0.1  # one calibration split in ten may certify too much, as in Jazbec et al. (2024)


def calibrate(
    logits: Sequence[Floats],
    labels: Labels | None,
    segments: Sequence[Graph],
    heads: Sequence[Graph],
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    lengths: Rows | None = None,
    max_disagreement: float | None = None,
) -> Calibration:
    """Fits everything the stop rule needs; `logits` has one (rows, classes) array per exit.

    `max_accuracy_drop` is what the operating point `certified` may lose against the last exit;
    `max_disagreement`, where given, is instead the share of its answers that may differ.
    `lengths` are the rows' length buckets, which simulations need; None where rows have one size.
    Without labels the last exit's answers take their place: accuracy is agreement, and
    `max_accuracy_drop` limits disagreement.
    """
    last_answers: Labels = logits[-1].argmax(axis=1)
    tuning, certifying = halves(len(last_answers))
    judged_by: JudgedBy = "last_exit" if labels is None else "labels"
    has_two_classes = logits[-1].shape[1] == 2  # both measures rank alike: the first is enough
    measures = get_args(Measure)[:1] if has_two_classes else get_args(Measure)
    if labels is None:
        temperatures = agreement_temperatures(logits, tuning)
        view = partial(agreement_view, logits, temperatures, segments, heads)
        found = best_search(view, tuning, DISAGREEMENTS, measures)
        labels, agreement = last_answers, found.split
        if max_disagreement is None:
            max_disagreement = max_accuracy_drop
    else:
        temperatures = [fit_temperature(z[tuning], labels[tuning]) for z in logits]
        view = partial(split_view, logits, temperatures, labels, segments, heads)
        found = best_search(view, tuning, ACCURACY_DROPS, measures)
        agreement = agreement_view(logits, temperatures, segments, heads, found.measure)
    return Calibration(
        schema_version=SCHEMA_VERSION,
        judged_by=judged_by,
        confidence=found.measure,
        num_rows=len(labels),
        exits=tuple(
            exit_calibration(exit, z, t, labels)
            for exit, (z, t) in enumerate(zip(logits, temperatures, strict=True), start=1)
        ),
        operating_points=operating_points(
            found, agreement, certifying, max_accuracy_drop, max_disagreement
        ),
        rows=CalibrationRows.of(found.split.confidences, found.split.is_right, lengths),
    )


def halves(num_rows: int) -> tuple[Rows, Rows]:
    """Rows that tune and rows that certify, both in random order; the same ones every time."""
    tuning, certifying = np.array_split(np.random.default_rng(0).permutation(num_rows), 2)
    return tuning, certifying


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The calibration temperature with the least negative log-likelihood (Guo et al., 2017)."""

    def nll(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-log_probabilities[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(nll, bounds=(-3, 3), method="bounded").x))


def split_view(
    logits: Sequence[Floats],
    temperatures: Sequence[float],
    labels: Labels,
    segments: Sequence[Graph],
    heads: Sequence[Graph],
    measure: Measure,
) -> SplitView:
    """The split as the stop rule sees it at these calibration temperatures."""
    probabilities = [
        calibrated_probabilities(z, t) for z, t in zip(logits, temperatures, strict=True)
    ]
    return SplitView(
        confidences=np.stack([confidence(p, measure) for p in probabilities], axis=1),
        is_right=np.stack([p.argmax(axis=1) == labels for p in probabilities], axis=1),
        chances=chances_of_being_right(probabilities),
        segment_macs=np.array([graph.macs for graph in segments]),
        head_macs=np.array([graph.macs for graph in heads]),
    )


def agreement_temperatures(logits: Sequence[Floats], tuning: Rows) -> list[float]:
    """By the last exit's answers; its own probabilities stay as they are."""
    answers = logits[-1][tuning].argmax(axis=1)
    return [*(fit_temperature(z[tuning], answers) for z in logits[:-1]), 1.0]


def agreement_view(
    logits: Sequence[Floats],
    temperatures: Sequence[float],
    segments: Sequence[Graph],
    heads: Sequence[Graph],
    measure: Measure,
) -> SplitView:
    """The split with the last exit's answers for labels: known, so that nothing is estimated."""
    answers = logits[-1].argmax(axis=1)
    split = split_view(logits, temperatures, answers, segments, heads, measure)
    return replace(split, chances=split.is_right.astype(np.float64))


class Search(NamedTuple):
    """What a search of thresholds on one measure of confidence found, on the rows that tune.

    `split` has all rows. `front` are the tuned candidates, `chosen` that of each operating point.
    """

    measure: Measure
    split: SplitView
    front: Sequence[Candidate]
    chosen: Mapping[str, Candidate]


def best_search(
    view: Callable[[Measure], SplitView],
    tuning: Rows,
    accuracy_drops: Mapping[str, float],
    measures: Sequence[Measure],
) -> Search:
    """The search by the first measure, unless `balanced` saves `MIN_SAVING` by another.

    `view` gives the split by a measure.
    """
    first, *others = (
        search(measure, view(measure), tuning, accuracy_drops) for measure in measures
    )
    most_macs = (1 - MIN_SAVING) * first.chosen["balanced"].mean_macs
    return next((s for s in others if s.chosen["balanced"].mean_macs <= most_macs), first)


def search(
    measure: Measure, split: SplitView, tuning: Rows, accuracy_drops: Mapping[str, float]
) -> Search:
    """Thresholds for operating points that lose at most these drops."""
    tune = split.take(tuning)
    front = tuned_candidates(tune)
    paths = [candidate.thresholds for candidate in front]
    chosen = {name: cheapest(tune, paths, drop) for name, drop in accuracy_drops.items()}
    return Search(measure, split, front, chosen)


def exit_calibration(
    exit: int, logits: Floats, calibration_temperature: float, labels: Labels
) -> ExitCalibration:
    """How one exit does with and without its calibration temperature."""
    is_right = logits.argmax(axis=1) == labels
    ece_before, ece = (
        expected_calibration_error(calibrated_probabilities(logits, t).max(axis=1), is_right)
        for t in (1.0, calibration_temperature)
    )
    return ExitCalibration(
        exit=exit,
        calibration_temperature=calibration_temperature,
        accuracy=float(is_right.mean()),
        ece_before=ece_before,
        ece=ece,
    )


def operating_points(
    found: Search,
    agreement: SplitView,
    certifying: Rows,
    max_accuracy_drop: float,
    max_disagreement: float | None,
) -> dict[str, OperatingPoint]:
    """Operating points chosen on the rows that tune, each with its certificate from the others.

    What a point is said to give is an estimate from all rows. `agreement` is the split judged by
    the last exit.
    """
    split, front = found.split, found.front
    certify, agree = split.take(certifying), agreement.take(certifying)
    chosen = {name: candidate.thresholds for name, candidate in found.chosen.items()}
    drops = {name: drop_bound(certify, thresholds) for name, thresholds in chosen.items()}
    disagreements = {name: drop_bound(agree, thresholds) for name, thresholds in chosen.items()}
    # the rows that certify chose `certified` among n: with DELTA / n each, all n bounds hold
    delta = DELTA / max(1, len(front))  # a network of one exit has nothing to choose from
    if max_disagreement is None:
        chosen[CERTIFIED], drops[CERTIFIED] = certified(certify, front, max_accuracy_drop)
        disagreements[CERTIFIED] = drop_bound(agree, chosen[CERTIFIED], delta)
    else:
        chosen[CERTIFIED], disagreements[CERTIFIED] = certified(agree, front, max_disagreement)
        drops[CERTIFIED] = drop_bound(certify, chosen[CERTIFIED], delta)
    if agreement is split:
        drops = disagreements
    return {
        name: split.point(
            thresholds,
            Certificate(
                max_accuracy_drop=drops[name],
                max_disagreement=disagreements[name],
                holds_with_probability=1 - DELTA,
                num_rows=certify.num_rows,
            ),
        )
        for name, thresholds in chosen.items()
    }


def drop_bound(certify: SplitView, thresholds: Thresholds, delta: float = DELTA) -> float:
    """The accuracy that stopping early costs at most, with probability 1 - `delta`."""
    if not stops_early(thresholds):
        return 0.0
    return upper_bound(certify.losses(thresholds), delta)


def certified(
    certify: SplitView, front: Sequence[Candidate], max_accuracy_drop: float
) -> tuple[Thresholds, float]:
    """Thresholds that lose at most as much, with probability 1 - DELTA, and what they lose at most.

    They are the last on the way from the dearest of `front` to its cheapest that are certain
    enough, before the first that are not; where that is the first, no row stops early.
    """
    path = [candidate.thresholds for candidate in reversed(front)]
    index = certified_index(map(certify.losses, path), max_accuracy_drop, DELTA)
    if index is None:
        return never_early(certify.num_exits), 0.0
    return path[index], max_accuracy_drop
