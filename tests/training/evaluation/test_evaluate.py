from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.confidence import Measure, calibrated_probabilities
from models.bundle.runner import SegmentRunner
from training.evaluation.evaluate import (
    CHUNK,
    FALLS,
    THRESHOLDS,
    ExitResult,
    all_logits,
    confidence_result,
    evaluate,
    exit_results,
    fall_shares,
)


def logits_of(*probabilities: float) -> NDArray[np.float32]:
    """Two-class logits whose softmax gives the first class these probabilities: (rows, 2)."""
    first = np.array(probabilities)
    logits: NDArray[np.float32] = np.log([first, 1 - first]).T.astype(np.float32)
    return logits


def uncalibrated_results(
    bundle: Bundle, logits: list[NDArray[np.float32]], labels: NDArray[np.int64]
) -> list[ExitResult]:
    probabilities = [calibrated_probabilities(z, 1.0) for z in logits]
    return exit_results(bundle, logits, probabilities, labels)


def test_exits_alone_in_budget_mode_and_in_the_ensemble(digits_bundle: Bundle) -> None:
    """The second exit is wrong about the first row, the first two together are right."""
    logits = [logits_of(0.9, 0.6), logits_of(0.3, 0.2), logits_of(0.6, 0.8)]
    results = uncalibrated_results(digits_bundle, logits, np.array([0, 1]))
    assert [e.exit for e in results] == [1, 2, 3]
    assert [e.top1 for e in results] == [0.5, 0.5, 0.5]
    assert [e.ensemble_top1 for e in results] == [0.5, 1.0, 0.5]
    assert [(e.top5, e.ensemble_top5) for e in results] == [(1.0, 1.0)] * 3
    assert results[0].calibrated.ece == pytest.approx((0.1 + 0.6) / 2)
    assert results[1].calibrated.ece == pytest.approx((0.7 + 0.2) / 2)


def test_the_cost_of_exits(digits_bundle: Bundle) -> None:
    results = uncalibrated_results(digits_bundle, [logits_of(0.9)] * 3, np.array([0]))
    segments, heads = (
        [graph.macs for graph in graphs]
        for graphs in (digits_bundle.manifest.segments, digits_bundle.manifest.exit_heads)
    )
    assert [e.macs for e in results] == [sum(segments[:k]) + heads[k - 1] for k in (1, 2, 3)]
    assert [e.macs_all_heads for e in results] == [
        sum(segments[:k]) + sum(heads[:k]) for k in (1, 2, 3)
    ]


def test_budget_mode_trusts_the_calibration_split(digits_bundle: Bundle) -> None:
    """On the rows evaluated, the last exit is the only one that is right."""
    logits = [logits_of(0.1), logits_of(0.1), logits_of(0.9)]
    results = uncalibrated_results(digits_bundle, logits, np.array([0]))
    validated = [e.accuracy for e in digits_bundle.calibration.exits]
    for result in results:
        assert validated[result.budget_exit - 1] == max(validated[: result.exit])


def test_the_calibration_temperature_shows(digits_bundle: Bundle) -> None:
    """The logits say 90%, their labels agree for 60% of the rows."""
    (sharp,), labels = [logits_of(*[0.9] * 10)], np.array([0] * 6 + [1] * 4)
    softened = calibrated_probabilities(sharp, float(np.log(9) / np.log(1.5)))
    result, *_ = exit_results(digits_bundle, [sharp] * 3, [softened] * 3, labels)
    assert result.uncalibrated.ece == pytest.approx(0.3, abs=1e-6)
    assert result.calibrated.ece == pytest.approx(0, abs=1e-6)
    assert result.uncalibrated.reliability == [pytest.approx((0.9, 0.6, 10))]
    assert result.calibrated.reliability == [pytest.approx((0.6, 0.6, 10))]


def test_confidence_ranks_failures_or_has_none_to_rank() -> None:
    probabilities = calibrated_probabilities(logits_of(0.9, 0.8, 0.3), 1.0)
    assert confidence_result(probabilities, np.array([0, 1, 1])).auroc == 0.5
    assert confidence_result(probabilities, np.array([0, 0, 1])).auroc is None


def test_the_true_class_falls_by_more_than() -> None:
    """By 0.4 from exit 1 to 3 for row 1; by 0.15, of class 1, for row 2; never for row 3."""
    probabilities = [
        calibrated_probabilities(logits_of(*exit), 1.0)
        for exit in [(0.9, 0.2, 0.5), (0.6, 0.35, 0.5), (0.5, 0.3, 0.9)]
    ]
    shares = fall_shares(probabilities, np.array([0, 1, 0]))
    assert [fall.more_than for fall in shares] == list(FALLS) == [0.01, 0.1, 0.2, 0.33, 0.5]
    assert [fall.share for fall in shares] == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3, 0])


def runner_of(bundle: Bundle) -> SegmentRunner:
    return SegmentRunner(bundle.manifest.segments, bundle.manifest.exit_heads, bundle.graphs)


def images(rows: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (rows, 8, 8, 1), dtype=np.uint8)


def test_every_row_passes_every_exit_in_order(digits_bundle: Bundle) -> None:
    done: list[int] = []
    some = images(2 * CHUNK + 7)
    logits = all_logits(runner_of(digits_bundle), some, done.append)
    assert [z.shape for z in logits] == [(2 * CHUNK + 7, 10)] * 3
    assert done == [CHUNK, CHUNK, 7]
    alone = all_logits(runner_of(digits_bundle), some[CHUNK + 3 : CHUNK + 4], done.append)
    for together, z in zip(logits, alone, strict=True):
        assert z[0] == pytest.approx(together[CHUNK + 3], abs=1e-4)


def test_rows_stop_by_the_bundles_measure_of_confidence(digits_bundle: Bundle) -> None:
    """Both rows have a largest probability of 0.6 at exit 1, and margins of 0.2 and 0.56."""
    one = np.log(np.array([[0.6, 0.4, *[1e-9] * 8], [0.6, *[0.4 / 9] * 9]], np.float32))
    exits = tuple(
        fitted.model_copy(update={"calibration_temperature": 1.0})
        for fitted in digits_bundle.calibration.exits
    )
    shares = {}
    for measure in get_args(Measure):
        fitted = digits_bundle.calibration.model_copy(
            update={"confidence": measure, "exits": exits}
        )
        bundle = replace(digits_bundle, calibration=fitted)
        report = evaluate(bundle, [one] * 3, np.array([0, 0]), data="made", split="test")
        assert report.confidence == measure
        shares[measure] = report.curve[THRESHOLDS.index(0.4)].exit_shares
        assert report.exits[0].calibrated.ece == pytest.approx(0.4, abs=1e-6)
    assert shares == {"max_probability": [1, 0, 0], "margin": [0.5, 0, 0.5]}


def test_a_report_is_what_its_parts_say(digits_bundle: Bundle) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 60)
    logits = [generator.normal(0, 2, (60, 10)).astype(np.float32) for _ in range(3)]
    report = evaluate(digits_bundle, logits, labels, data="noise", split="test")
    assert (report.model, report.version, report.data, report.num_rows) == (
        "digits",
        1,
        "noise",
        60,
    )
    assert [e.top1 for e in report.exits] == [(z.argmax(axis=1) == labels).mean() for z in logits]
    assert set(report.operating_points) == {"fast", "balanced", "accurate", "certified"}
    assert report.certificates == {
        name: point.certificate
        for name, point in digits_bundle.calibration.operating_points.items()
    }
    assert report.curve_thresholds == THRESHOLDS
    shallowest, deepest = report.curve[0], report.curve[-1]
    assert (shallowest.exit_shares, shallowest.accuracy) == ([1, 0, 0], report.exits[0].top1)
    assert (deepest.exit_shares, deepest.accuracy) == ([0, 0, 1], report.exits[-1].top1)
    assert shallowest.mean_macs == report.exits[0].macs
    assert deepest.mean_macs == report.exits[-1].macs_all_heads
    depths = [point.mean_macs for point in report.curve]
    assert depths == sorted(depths)
