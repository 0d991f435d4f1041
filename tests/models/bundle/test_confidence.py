import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from models.bundle.confidence import Floats, calibrated_probabilities, confidence

logits = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6),
    elements=st.floats(-50, 50, width=32),
)


def test_probabilities_are_the_softmax_of_the_scaled_logits() -> None:
    z = np.log(np.array([[1, 2, 5], [4, 4, 8]], dtype=np.float32))
    assert calibrated_probabilities(z, 1.0) == pytest.approx(
        np.array([[0.125, 0.25, 0.625], [0.25, 0.25, 0.5]]), rel=1e-6
    )
    assert calibrated_probabilities(z, 0.5) == pytest.approx(
        np.array([[1 / 30, 4 / 30, 25 / 30], [1 / 6, 1 / 6, 4 / 6]]), rel=1e-6
    )


def test_confidence_is_the_largest_probability_of_each_row() -> None:
    p = np.array([[0.1, 0.7, 0.2], [0.4, 0.3, 0.3]], dtype=np.float32)
    assert confidence(p).tolist() == [np.float32(0.7), np.float32(0.4)]


def test_huge_logits_do_not_overflow() -> None:
    z = np.array([[1e38, -1e38, 0.0]], dtype=np.float32)
    assert calibrated_probabilities(z, 1.0).tolist() == [[1.0, 0.0, 0.0]]


@given(logits, st.floats(0.05, 20))
def test_rows_are_float32_distributions(z: Floats, temperature: float) -> None:
    p = calibrated_probabilities(z, temperature)
    assert p.dtype == np.float32
    assert p.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (p >= 0).all()
    assert (confidence(p) <= 1).all()


@given(logits, st.floats(0.05, 20), st.floats(1, 5))
def test_a_higher_temperature_never_raises_confidence(
    z: Floats, temperature: float, factor: float
) -> None:
    before = confidence(calibrated_probabilities(z, temperature))
    after = confidence(calibrated_probabilities(z, temperature * factor))
    assert (after <= before + 1e-5).all()
