from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.policy import Policy, StopReason, policy_of_threshold
from models.bundle.runner import SegmentRunner
from training.evaluate import (
    CHUNK,
    THRESHOLDS,
    all_logits,
    evaluate,
    exit_results,
    reliability,
    run_policy,
    top_k_accuracy,
    walk,
)

SCORES = np.array(
    [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25, 0.1, 0.6, 0.05]], dtype=np.float32
)
LABELS = np.array([3, 2, 3])


@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 1 / 3), (3, 2 / 3), (4, 1), (5, 1)])
def test_top_k_accuracy(k: int, expected: float) -> None:
    assert top_k_accuracy(SCORES, LABELS, k) == pytest.approx(expected)


def test_reliability_describes_the_bins_that_have_rows() -> None:
    confidences = np.array([0.05, 0.95, 0.99, 1.0, 0.07])
    correct = np.array([True, True, False, True, False])
    first, last = reliability(confidences, correct)
    assert first == pytest.approx((0.06, 0.5, 2))
    assert last == pytest.approx((0.98, 2 / 3, 3))


def test_a_walk_by_hand() -> None:
    policy = Policy((0.5, None, 0.7, None), 1, 4)
    assert walk(policy, [0.51, 0, 0, 0]) == ([1], StopReason.CONFIDENT)
    assert walk(policy, [0.5, 1, 0.71, 0]) == ([1, 3], StopReason.CONFIDENT)
    assert walk(policy, [0.5, 1, 0.7, 0.1]) == ([1, 3, 4], StopReason.FINAL)
    assert walk(Policy((0.5, None, 0.7, None), 2, 4), [1, 1, 1, 0]) == ([3], StopReason.CONFIDENT)
    assert walk(Policy((0.9, None, 0.7, None), 1, 2), [0, 0, 0, 0]) == (
        [1, 2],
        StopReason.EXIT_LIMIT,
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.floats(0, 1))
def test_one_threshold_stops_at_the_first_exit_above_it(
    confidences: list[float], threshold: float
) -> None:
    num_exits = len(confidences)
    above = [exit for exit, c in enumerate(confidences[:-1], start=1) if c > threshold]
    expected = above[0] if above else num_exits
    ran, reason = walk(policy_of_threshold(threshold, num_exits), confidences)
    assert ran == list(range(1, expected + 1))
    assert reason is (StopReason.CONFIDENT if above else StopReason.FINAL)


@pytest.fixture
def costs() -> Bundle:
    """What `run_policy` reads of a bundle: segments of 10, 20 and 40 MACs, heads of 1, 2 and 3."""
    segments, heads = (
        [SimpleNamespace(macs=m) for m in macs] for macs in ((10, 20, 40), (1, 2, 3))
    )
    bundle: Bundle = SimpleNamespace(  # type: ignore[assignment]
        manifest=SimpleNamespace(segments=segments, exit_heads=heads)
    )
    return bundle


def test_a_policy_counts_only_the_heads_that_ran(costs: Bundle) -> None:
    confidences = np.array([[0.9, 0.0, 0.0], [0.2, 0.8, 0.0], [0.2, 0.1, 0.3], [0.6, 0.0, 0.0]])
    correct = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 1]], dtype=bool)
    result = run_policy(costs, policy_of_threshold(0.5, 3), confidences, correct)
    assert result.accuracy == 2 / 4
    assert result.exit_shares == [0.5, 0.25, 0.25]
    assert result.mean_macs == (11 + 33 + 76 + 11) / 4
    assert result.stop_reasons == {"confident": 3, "final": 1}
    skips_exit_1 = Policy((None, 0.5, None), 1, 3)
    result = run_policy(costs, skips_exit_1, confidences, correct)
    assert result.mean_macs == (75 + 32 + 75 + 75) / 4
    assert result.exit_shares == [0.0, 0.25, 0.75]


def test_exits_alone_and_in_the_ensemble(costs: Bundle) -> None:
    """The second exit is wrong about the first row, the two together are right."""
    first = np.array([[0.9, 0.1], [0.6, 0.4]], dtype=np.float32)
    second = np.array([[0.3, 0.7], [0.2, 0.8]], dtype=np.float32)
    results = exit_results(costs, [first, second], np.array([0, 1]))
    assert [(e.exit, e.macs, e.macs_all_heads) for e in results] == [(1, 11, 11), (2, 32, 33)]
    assert [(e.top1, e.ensemble_top1) for e in results] == [(0.5, 0.5), (0.5, 1.0)]
    assert [(e.top5, e.ensemble_top5) for e in results] == [(1.0, 1.0)] * 2
    assert results[0].ece == pytest.approx((0.1 + 0.6) / 2)
    assert results[1].ece == pytest.approx((0.7 + 0.2) / 2)


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
    assert set(report.operating_points) == {"fast", "balanced", "accurate"}
    assert report.curve_thresholds == THRESHOLDS
    shallowest, deepest = report.curve[0], report.curve[-1]
    assert (shallowest.exit_shares, shallowest.accuracy) == ([1, 0, 0], report.exits[0].top1)
    assert (deepest.exit_shares, deepest.accuracy) == ([0, 0, 1], report.exits[-1].top1)
    assert shallowest.mean_macs == report.exits[0].macs
    assert deepest.mean_macs == report.exits[-1].macs_all_heads
    depths = [point.mean_macs for point in report.curve]
    assert depths == sorted(depths)
