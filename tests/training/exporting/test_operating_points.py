"""The search for operating points against brute force and the served stop rule."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.policy import policy_at
from training.evaluation.replay import run_policy
from training.exporting.operating_points import (
    STANDARD_ERRORS,
    UNCONSULTED,
    Candidate,
    SplitView,
    chances_of_being_right,
    cheapest,
    never_early,
    stops_early,
    tuned_candidates,
)

MACS = np.array([10, 20, 40]), np.array([1, 2, 3])


def drawn_split(
    rows: int, seed: int, macs: tuple[NDArray[np.int64], NDArray[np.int64]] = MACS
) -> SplitView:
    """Three exits with many confidences equal to a threshold; the estimate is the truth."""
    generator = np.random.default_rng(seed)
    confidences = generator.integers(0, 101, (rows, 3)).astype(np.float32) / np.float32(100)
    is_right = generator.random((rows, 3)) < 0.3 + 0.6 * confidences
    return SplitView(confidences, is_right, is_right.astype(float), *macs)


def macs_of(bundle: Bundle) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    manifest = bundle.manifest
    segments, heads = (
        np.array([graph.macs for graph in graphs])
        for graphs in (manifest.segments, manifest.exit_heads)
    )
    return segments, heads


def assert_served(bundle: Bundle, split: SplitView, candidate: Candidate) -> None:
    """The served stop rule gives what the candidate and its operating point promise."""
    point = split.point(candidate.thresholds, None)
    agrees = split.is_right == split.is_right[:, -1:]
    served = run_policy(bundle, policy_at(point), split.confidences, split.is_right, agrees)
    assert served.accuracy == pytest.approx(candidate.chance)
    assert served.accuracy == pytest.approx(point.accuracy)
    assert served.mean_macs == pytest.approx(candidate.mean_macs)
    assert served.mean_macs == pytest.approx(point.mean_macs)
    assert served.exit_shares == pytest.approx(list(point.exit_shares))
    lost = split.is_right[:, -1].mean() - served.accuracy
    assert split.losses(candidate.thresholds).mean() == pytest.approx(lost)


@settings(max_examples=5)
@given(st.integers(20, 60), st.integers(0, 2**31))
def test_tuned_candidates_promise_what_the_served_stop_rule_gives(
    digits_bundle: Bundle, rows: int, seed: int
) -> None:
    split = drawn_split(rows, seed, macs_of(digits_bundle))
    for candidate in tuned_candidates(split)[::10]:
        assert_served(digits_bundle, split, candidate)


def test_tuned_candidates_cost_more_only_where_they_are_better() -> None:
    candidates = tuned_candidates(drawn_split(300, 0))
    assert len(candidates) > 5
    for one, other in pairwise(candidates):
        assert one.mean_macs < other.mean_macs
        assert one.chance < other.chance


CONFIDENCES = np.array([[0.9, 1.0, 0.2], [0.5, 1.0, 0.2], [0.51, 0.0, 1.0], [0.1, 1.0, 0.1]])
IS_RIGHT = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=bool)
BY_HAND = SplitView(CONFIDENCES, IS_RIGHT, IS_RIGHT.astype(float), *MACS)
SKIPS_EXIT_2 = np.array([0.5, UNCONSULTED])


def test_one_operating_point_by_hand() -> None:
    """Segments of 10, 20 and 40 MACs with heads of 1, 2 and 3; exit 2 is not consulted."""
    point = BY_HAND.point(SKIPS_EXIT_2, None)
    assert point.consulted == (1, 3)
    assert point.thresholds == (0.5, 1.0, None)
    assert point.exit_shares == (0.5, 0.0, 0.5)
    assert point.accuracy == 0.5
    assert point.mean_macs == (11 + 74 + 11 + 74) / 4


def test_losses_by_hand() -> None:
    """Row 1 stops early, right where the last exit is wrong; row 3, wrong where it is right."""
    assert BY_HAND.losses(SKIPS_EXIT_2).tolist() == [-1, 0, 1, 0]
    assert BY_HAND.losses(never_early(3)).tolist() == [0, 0, 0, 0]


def test_some_rows_of_a_split() -> None:
    some = BY_HAND.take(np.array([2, 0]))
    assert (some.num_rows, some.num_exits) == (2, 3)
    assert some.losses(SKIPS_EXIT_2).tolist() == [1, -1]
    assert some.candidate(SKIPS_EXIT_2)[1:] == (0.5, 11)


@settings(max_examples=20)
@given(st.integers(10, 60), st.integers(0, 2**31), st.sampled_from([-0.1, 0.0, 0.05, 0.2]))
def test_the_cheapest_keeps_its_limit_and_no_cheaper_one_does(
    rows: int, seed: int, max_loss: float
) -> None:
    split = drawn_split(rows, seed)
    candidates = tuned_candidates(split)
    chosen = cheapest(split, [c.thresholds for c in candidates], max_loss)
    last = split.chances[:, -1].mean()
    passing = []
    for candidate in candidates:
        error = split.losses(candidate.thresholds).std() / np.sqrt(rows)
        if last - candidate.chance + STANDARD_ERRORS * error + 1 / rows <= max_loss:
            passing.append(candidate.mean_macs)
    assert chosen.mean_macs == (passing[0] if passing else 73)


def test_where_all_lose_too_much_no_row_stops_early() -> None:
    split = drawn_split(50, 0)
    never = cheapest(split, [c.thresholds for c in tuned_candidates(split)], -0.5)
    assert not stops_early(never.thresholds)
    assert (never.chance, never.mean_macs) == (split.is_right[:, -1].mean(), 73)
    assert split.point(never.thresholds, None).exit_shares == (0, 0, 1)


def test_the_cheapest_has_standard_errors_to_spare() -> None:
    """Of 100 rows 10 lose their answer: 0.1, its error is 0.03, and one row more is 0.01."""
    right = np.ones((100, 2), bool)
    right[:10, 0] = False
    split = SplitView(np.ones((100, 2)), right, right.astype(float), *(m[:2] for m in MACS))
    early = np.array([0.5])
    for standard_errors, limit in [(0.0, 0.11), (1.0, 0.14), (2.5, 0.185)]:
        assert cheapest(split, [early], limit + 1e-9, standard_errors).thresholds == early
        never = cheapest(split, [early], limit - 1e-9, standard_errors)
        assert never.mean_macs == 10 + 20 + 2


def test_of_few_rows_none_may_lose_by_luck() -> None:
    split = SplitView(
        np.ones((60, 2)), np.ones((60, 2), bool), np.ones((60, 2)), *(m[:2] for m in MACS)
    )
    early = np.array([0.5])
    assert cheapest(split, [early], 0.02).thresholds == early
    assert not stops_early(cheapest(split.take(np.arange(49)), [early], 0.02).thresholds)


def test_the_choice_is_by_estimates_and_the_accuracy_by_labels() -> None:
    """Of each second row the early answer is wrong, and the last exit gives it 0.3 less."""
    right = np.tile([[True, True], [False, True]], (50, 1))
    chances = np.where(right, 0.9, 0.6)
    split = SplitView(np.ones((100, 2)), right, chances, *(m[:2] for m in MACS))
    early = np.array([0.5])
    assert split.estimated_losses(early)[:2] == pytest.approx([0, 0.3])
    assert split.losses(early)[:2].tolist() == [0, 1]
    bound = 0.15 + 2.5 * 0.015 + 0.01
    assert cheapest(split, [early], bound + 1e-9).thresholds == early
    assert cheapest(split, [early], bound - 1e-9).thresholds != early
    assert split.point(early, None).accuracy == 0.5


def test_chances_are_what_the_last_exit_gives_each_answer() -> None:
    first = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    last = np.array([[0.7, 0.3], [0.6, 0.4]], np.float32)
    chances = chances_of_being_right([first, last])
    np.testing.assert_allclose(chances, [[0.7, 0.7], [0.4, 0.6]], rtol=1e-6)
