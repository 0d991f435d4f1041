from math import isfinite

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from models.bundle.confidence import (
    Floats,
    Measure,
    calibrated_probabilities,
    confidence,
    softmax,
)

logits = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6),
    elements=st.floats(-50, 50, width=32),
)
measures: st.SearchStrategy[Measure] = st.sampled_from(["max_probability", "margin"])


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
    assert confidence(p, "max_probability").tolist() == [np.float32(0.7), np.float32(0.4)]


def test_the_margin_is_how_far_the_largest_is_above_the_second() -> None:
    p = np.array([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2]], dtype=np.float32)
    assert confidence(p, "margin").tolist() == [pytest.approx(0.5), 0]
    assert p[0].tolist() == [np.float32(0.1), np.float32(0.7), np.float32(0.2)]


@pytest.mark.parametrize("measure", ["max_probability", "margin"])
def test_a_row_with_a_logit_that_is_no_number_has_no_confidence(measure: Measure) -> None:
    z = np.array([[0.0, np.nan, 1.0], [np.inf, 0.0, 1.0], [3.0, 0.0, 1.0]], dtype=np.float32)
    with np.errstate(invalid="ignore"):
        _, confidences = softmax(z, 1.0, measure)
    assert [isfinite(c) for c in confidences] == [False, False, True]


def test_huge_logits_do_not_overflow() -> None:
    z = np.array([[1e38, -1e38, 0.0]], dtype=np.float32)
    assert calibrated_probabilities(z, 1.0).tolist() == [[1.0, 0.0, 0.0]]


@given(logits, st.floats(0.05, 20), measures)
def test_rows_are_float32_distributions(z: Floats, temperature: float, measure: Measure) -> None:
    p, confidences = softmax(z, temperature, measure)
    assert p.dtype == np.float32
    assert p.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (p >= 0).all()
    assert confidences == confidence(p, measure).tolist()
    assert all(0 <= c <= 1 for c in confidences)


@given(logits, st.floats(0.05, 20), st.floats(1, 5), measures)
def test_a_higher_temperature_never_raises_confidence(
    z: Floats, temperature: float, factor: float, measure: Measure
) -> None:
    before = confidence(calibrated_probabilities(z, temperature), measure)
    after = confidence(calibrated_probabilities(z, temperature * factor), measure)
    assert (after <= before + 1e-5).all()
