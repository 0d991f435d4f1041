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
    COMMON_THRESHOLDS,
    UNCONSULTED,
    Candidate,
    SplitView,
    chances_of_being_right,
    cheapest,
    common_candidates,
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


@settings(max_examples=10)
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_common_candidates_promise_what_the_served_stop_rule_gives(
    digits_bundle: Bundle, rows: int, seed: int
) -> None:
    split = drawn_split(rows, seed, macs_of(digits_bundle))
    candidates = common_candidates(split)
    assert len(candidates) == 1 + 3 * len(COMMON_THRESHOLDS)
    for candidate in candidates[seed % 7 :: 7]:
        assert_served(digits_bundle, split, candidate)


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


def test_never_stopping_early_is_the_first_candidate() -> None:
    split = drawn_split(50, 0)
    never, *others = common_candidates(split)
    assert not stops_early(never.thresholds)
    assert all(stops_early(other.thresholds) for other in others)
    assert (never.chance, never.mean_macs) == (split.is_right[:, -1].mean(), 73)
    assert split.point(never.thresholds, None).exit_shares == (0, 0, 1)


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([0.0, 0.005, 0.03]))
def test_the_cheapest_is_good_enough_and_no_good_enough_one_is_cheaper(
    rows: int, seed: int, drop: float
) -> None:
    split = drawn_split(rows, seed)
    candidates = common_candidates(split)
    wanted = float(split.chances[:, -1].mean()) - drop
    chosen = cheapest(candidates, wanted)
    assert chosen.chance >= wanted
    assert not any(c.chance >= wanted and c.mean_macs < chosen.mean_macs for c in candidates)


def test_the_cheapest_of_three() -> None:
    candidates = [
        Candidate(never_early(1), chance, macs)
        for chance, macs in [(0.9, 30), (0.8, 10), (0.85, 20)]
    ]
    assert cheapest(candidates, 0.85) is candidates[2]
    assert cheapest(candidates, 0.0) is candidates[1]
    assert cheapest(candidates, 0.9) is candidates[0]


def test_chances_are_the_last_exits_and_a_little_the_labels() -> None:
    first = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    last = np.array([[0.7, 0.3], [0.6, 0.4]], np.float32)
    chances = chances_of_being_right([first, last], np.array([0, 1]), 0.15)
    np.testing.assert_allclose(
        chances, [[0.85 * 0.7 + 0.15] * 2, [0.85 * 0.4 + 0.15, 0.85 * 0.6]], rtol=1e-6
    )


def test_of_many_exits_few_choices_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are half a million ways to consult 19 exits; those come first that consult fewest."""
    monkeypatch.setattr("training.exporting.operating_points.MAX_CHOICES", 30)
    num_exits = 20
    always = np.ones((2, num_exits), np.float32)
    macs = np.ones(num_exits, np.int64)
    never, *others = common_candidates(SplitView(always, always > 0, always, macs, macs))
    assert never.mean_macs == num_exits + 1
    assert len(others) == 30 * len(COMMON_THRESHOLDS)
    consulted = {tuple(np.flatnonzero(c.thresholds < UNCONSULTED).tolist()) for c in others}
    assert consulted == {*((exit,) for exit in range(19)), *((0, exit) for exit in range(1, 12))}
