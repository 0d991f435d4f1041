import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.measures import (
    budget_exits,
    expected_calibration_error,
    failure_auroc,
    largest_falls,
    reliability,
    top_k_accuracy,
)

SCORES = np.array(
    [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25, 0.1, 0.6, 0.05]], dtype=np.float32
)
LABELS = np.array([3, 2, 3])


@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 1 / 3), (3, 2 / 3), (4, 1), (5, 1)])
def test_top_k_accuracy(k: int, expected: float) -> None:
    assert top_k_accuracy(SCORES, LABELS, k) == pytest.approx(expected)


@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 2 / 3), (3, 1)])
def test_of_equal_scores_the_first_is_the_answer(k: int, expected: float) -> None:
    scores = np.full((3, 3), 0.5, dtype=np.float32)
    assert top_k_accuracy(scores, np.array([0, 1, 2]), k) == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    """Two rows at 0.85 and 0.95 with one right, one at 0.3 that is wrong: 0.8 and 0.3 too much."""
    confidences = np.array([0.85, 0.95, 0.3])
    correct = np.array([True, False, False])
    assert expected_calibration_error(confidences, correct, 2) == pytest.approx((0.8 + 0.3) / 3)
    assert expected_calibration_error(confidences, correct, 10) == pytest.approx(
        (0.15 + 0.95 + 0.3) / 3
    )


def test_certainty_falls_into_the_last_bin() -> None:
    ones = np.ones(4)
    assert expected_calibration_error(ones, ones.astype(bool)) == 0
    assert expected_calibration_error(ones, ~ones.astype(bool)) == 1


def test_reliability_describes_the_bins_that_have_rows() -> None:
    confidences = np.array([0.05, 0.95, 0.99, 1.0, 0.07])
    correct = np.array([True, True, False, True, False])
    first, last = reliability(confidences, correct)
    assert first == pytest.approx((0.06, 0.5, 2))
    assert last == pytest.approx((0.98, 2 / 3, 3))


def test_failure_auroc_counts_pairs_in_the_right_order() -> None:
    """Of four pairs of a right and a wrong row, two are in order and one is a tie."""
    confidences = np.array([0.9, 0.4, 0.6, 0.4])
    correct = np.array([True, True, False, False])
    assert failure_auroc(confidences, correct) == (2 + 0.5) / 4
    assert failure_auroc(correct.astype(float), correct) == 1


@pytest.mark.parametrize("verdict", [True, False])
def test_there_is_nothing_to_rank_where_all_rows_fare_alike(verdict: bool) -> None:
    assert failure_auroc(np.array([0.1, 0.9]), np.array([verdict] * 2)) is None


def test_the_largest_fall_is_from_any_exit_to_any_later_one() -> None:
    falls = largest_falls(
        np.array([[0.1, 0.5, 0.9], [0.5, 0.6, 0.1], [0.8, 0.2, 0.7], [0.6, 0.5, 0.3]])
    )
    assert falls == pytest.approx([0.0, 0.5, 0.6, 0.3])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_the_largest_fall_against_brute_force(probabilities: list[float]) -> None:
    pairs = [a - b for j, b in enumerate(probabilities) for a in probabilities[: j + 1]]
    assert largest_falls(np.array([probabilities])) == pytest.approx(max(pairs))


@pytest.mark.parametrize(
    ("macs", "accuracies", "expected"),
    [
        ([10, 20, 30], [0.5, 0.6, 0.7], [1, 2, 3]),
        ([10, 20, 30], [0.5, 0.7, 0.6], [1, 2, 2]),
        ([10, 20, 30], [0.7, 0.7, 0.7], [1, 1, 1]),
        ([10, 30, 20], [0.5, 0.6, 0.7], [1, 3, 3]),
        ([10], [0.5], [1]),
    ],
)
def test_budget_mode_takes_the_best_validated_exit_that_fits(
    macs: list[int], accuracies: list[float], expected: list[int]
) -> None:
    assert budget_exits(macs, accuracies) == expected
