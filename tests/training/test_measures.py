import numpy as np
import pytest

from training.measures import expected_calibration_error, reliability, top_k_accuracy

SCORES = np.array(
    [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.25, 0.1, 0.6, 0.05]], dtype=np.float32
)
LABELS = np.array([3, 2, 3])


@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 1 / 3), (3, 2 / 3), (4, 1), (5, 1)])
def test_top_k_accuracy(k: int, expected: float) -> None:
    assert top_k_accuracy(SCORES, LABELS, k) == pytest.approx(expected)


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
