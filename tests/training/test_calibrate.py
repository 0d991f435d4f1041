"""Calibration temperatures and operating points against brute force and the served stop rule."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.confidence import calibrated_probabilities
from models.bundle.manifest import OperatingPoint
from models.bundle.policy import policy_at
from training.calibrate import (
    ACCURACY_DROPS,
    THRESHOLDS,
    calibrate,
    chances_of_being_right,
    cheapest,
    fit_temperature,
    operating_points,
    tuned_points,
)
from training.measures import Labels
from training.replay import run_policy

Floats = NDArray[np.float32]


def synthetic(temperature: float, rows: int = 20_000, seed: int = 0) -> tuple[Floats, Labels]:
    """Logits, and labels drawn from their softmax at a known temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (rows, 5)).astype(np.float32)
    cumulative = calibrated_probabilities(logits, temperature).cumsum(axis=1)
    draws = generator.random((rows, 1)) * cumulative[:, -1:]
    return logits, (draws > cumulative).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    logits, labels = synthetic(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_scaled_logits_need_a_scaled_temperature() -> None:
    logits, labels = synthetic(1.0, rows=500)
    once, thrice = (fit_temperature(factor * logits, labels) for factor in (1, 3))
    assert thrice == pytest.approx(3 * once, rel=1e-3)


def drawn_exits(rows: int, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Confidences, many of them equal to a threshold, and correctness of three exits."""
    generator = np.random.default_rng(seed)
    confidences = generator.integers(0, 101, (rows, 3)).astype(np.float32) / np.float32(100)
    return confidences, generator.random((rows, 3)) < 0.3 + 0.6 * confidences


def macs_of(bundle: Bundle) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    manifest = bundle.manifest
    segments, heads = (
        np.array([graph.macs for graph in graphs])
        for graphs in (manifest.segments, manifest.exit_heads)
    )
    return segments, heads


@settings(max_examples=10)
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_operating_points_promise_what_the_served_stop_rule_gives(
    digits_bundle: Bundle, rows: int, seed: int
) -> None:
    confidences, correct = drawn_exits(rows, seed)
    points = operating_points(confidences, correct, *macs_of(digits_bundle))
    assert len(points) == 1 + 3 * len(THRESHOLDS)
    for point in points[seed % 7 :: 7]:
        served = run_policy(digits_bundle, policy_at(point), confidences, correct)
        assert served.accuracy == pytest.approx(point.accuracy)
        assert served.mean_macs == pytest.approx(point.mean_macs)
        assert served.exit_shares == pytest.approx(point.exit_shares)


@settings(max_examples=5)
@given(st.integers(20, 60), st.integers(0, 2**31))
def test_tuned_points_promise_what_the_served_stop_rule_gives(
    digits_bundle: Bundle, rows: int, seed: int
) -> None:
    confidences, correct = drawn_exits(rows, seed)
    macs = macs_of(digits_bundle)
    for point in tuned_points(confidences, correct, *macs)[::10]:
        served = run_policy(digits_bundle, policy_at(point), confidences, correct)
        assert served.accuracy == pytest.approx(point.accuracy)
        assert served.mean_macs == pytest.approx(point.mean_macs)
        assert served.exit_shares == pytest.approx(list(point.exit_shares))


def test_tuned_points_cost_more_only_where_they_are_better() -> None:
    confidences, correct = drawn_exits(300, 0)
    points = tuned_points(confidences, correct, np.array([10, 20, 40]), np.array([1, 2, 3]))
    assert len(points) > 5
    for one, other in pairwise(points):
        assert one.mean_macs < other.mean_macs
        assert one.accuracy < other.accuracy


def test_one_operating_point_by_hand() -> None:
    """Segments of 10, 20 and 40 MACs with heads of 1, 2 and 3; exit 2 is not consulted."""
    confidences = np.array([[0.9, 1.0, 0.2], [0.5, 1.0, 0.2], [0.51, 0.0, 1.0], [0.1, 1.0, 0.1]])
    correct = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=bool)
    points = operating_points(confidences, correct, np.array([10, 20, 40]), np.array([1, 2, 3]))
    (point,) = [p for p in points if p.consulted == (1, 3) and p.thresholds[0] == 0.5]
    assert point.thresholds == (0.5, 1.0, None)
    assert point.exit_shares == (0.5, 0.0, 0.5)
    assert point.accuracy == 0.5
    assert point.mean_macs == (11 + 74 + 11 + 74) / 4


def test_never_stopping_early_is_among_the_candidates() -> None:
    confidences, correct = drawn_exits(50, 0)
    points = operating_points(confidences, correct, np.array([1, 1, 1]), np.array([1, 1, 1]))
    (never,) = [p for p in points if p.consulted == (3,)]
    assert (never.exit_shares, never.mean_macs) == ((0, 0, 1), 4)
    assert never.accuracy == correct[:, -1].mean()


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([0.0, 0.005, 0.03]))
def test_the_cheapest_is_good_enough_and_no_good_enough_one_is_cheaper(
    rows: int, seed: int, drop: float
) -> None:
    confidences, correct = drawn_exits(rows, seed)
    points = operating_points(confidences, correct, np.array([5, 7, 9]), np.array([3, 2, 1]))
    wanted = float(correct[:, -1].mean()) - drop
    chosen = cheapest(points, wanted)
    assert chosen.accuracy >= wanted
    assert not any(p.accuracy >= wanted and p.mean_macs < chosen.mean_macs for p in points)


def test_the_cheapest_of_three() -> None:
    def point(accuracy: float, mean_macs: float) -> OperatingPoint:
        return OperatingPoint(
            thresholds=(None,),
            consulted=(1,),
            accuracy=accuracy,
            mean_macs=mean_macs,
            exit_shares=(1.0,),
        )

    points = [point(0.9, 30), point(0.8, 10), point(0.85, 20)]
    assert cheapest(points, 0.85) is points[2]
    assert cheapest(points, 0.0) is points[1]
    assert cheapest(points, 0.9) is points[0]


def test_chances_are_halfway_between_the_label_and_the_last_exit() -> None:
    first = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    last = np.array([[0.7, 0.3], [0.6, 0.4]], np.float32)
    chances = chances_of_being_right([first, last], np.array([0, 1]))
    np.testing.assert_allclose(
        chances, [[(0.7 + 1) / 2, (0.7 + 1) / 2], [(0.4 + 1) / 2, (0.6 + 0) / 2]], rtol=1e-6
    )


def test_the_choice_among_many_candidates_keeps_its_promise_on_new_rows() -> None:
    """The estimate must not pick a point for its luck on the calibration split."""
    exits, seeds = 5, range(6)
    gaps = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        truth = generator.normal(0, 2, (3000, 10))
        labels = (truth + generator.gumbel(size=truth.shape)).argmax(axis=1)
        noise = np.linspace(1.5, 0.5, exits)
        logits = [(truth + generator.normal(0, s, truth.shape)).astype(np.float32) for s in noise]
        fitted, fresh = slice(0, 1000), slice(1000, 3000)
        temperatures = [fit_temperature(z[fitted], labels[fitted]) for z in logits]
        probabilities = [
            calibrated_probabilities(z, t) for z, t in zip(logits, temperatures, strict=True)
        ]
        macs = np.full(exits, 10), np.full(exits, 2)
        confidences = np.stack([p.max(axis=1) for p in probabilities], axis=1)
        chances = chances_of_being_right([p[fitted] for p in probabilities], labels[fitted])
        points = operating_points(confidences[fitted], chances, *macs)
        chosen = cheapest(points, float(chances[:, -1].mean()) - 0.01)
        is_right = np.stack([z.argmax(axis=1) == labels for z in logits], axis=1)
        (again,) = [
            p
            for p in operating_points(confidences[fresh], is_right[fresh], *macs)
            if (p.consulted, p.thresholds) == (chosen.consulted, chosen.thresholds)
        ]
        gaps.append(is_right[fresh, -1].mean() - again.accuracy)
    assert np.mean(gaps) < 0.015


def test_a_calibration_describes_every_exit(digits_bundle: Bundle) -> None:
    manifest = digits_bundle.manifest
    sharp, labels = synthetic(1.0, rows=3000)
    rough = (sharp + np.random.default_rng(1).normal(0, 3, sharp.shape)).astype(np.float32)
    logits = [rough, 2 * sharp, sharp]
    made = calibrate(logits, labels, manifest.segments, manifest.exit_heads)
    assert made.num_rows == 3000
    assert [e.accuracy for e in made.exits] == [(z.argmax(1) == labels).mean() for z in logits]
    assert made.exits[1].calibration_temperature == pytest.approx(2, rel=0.1)
    assert made.exits[2].calibration_temperature == pytest.approx(1, rel=0.1)
    assert made.exits[1].ece < made.exits[1].ece_before / 2
    probabilities = [
        calibrated_probabilities(z, e.calibration_temperature)
        for z, e in zip(logits, made.exits, strict=True)
    ]
    last = chances_of_being_right(probabilities, labels)[:, -1].mean()
    for name, drop in ACCURACY_DROPS.items():
        assert made.operating_points[name].accuracy >= last - drop
    fast, balanced, accurate = (made.operating_points[name].mean_macs for name in ACCURACY_DROPS)
    assert fast <= balanced <= accurate
