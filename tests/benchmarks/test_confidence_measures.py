"""Measures of confidence, on numbers made so that the answer is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.confidence_measures import (
    DROPS,
    MEASURES,
    HeldOut,
    Judged,
    certainty,
    judge,
    learned,
    macs_at_drops,
    ranks,
    table,
)
from models.bundle.bundle import Bundle
from models.bundle.confidence import Floats
from training.exporting.operating_points import SplitView

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=np.float32)


def test_certainty_is_one_where_one_class_has_all_and_zero_where_all_have_as_much() -> None:
    even = np.full((1, 3), 1 / 3, dtype=np.float32)
    assert certainty(even).tolist() == pytest.approx([0], abs=1e-6)
    expected = [1 - 0.8018186 / np.log(3), 1 - np.log(2) / np.log(3), 1]
    assert certainty(PROBABILITIES).tolist() == pytest.approx(expected, abs=1e-5)


def test_ranks_are_shares_of_the_fitting_rows() -> None:
    fit = np.array([0.4, 0.1, 0.3, 0.2])
    assert ranks(fit, np.array([0.05, 0.25, 0.9])).tolist() == [0, 0.5, 1]


def made(num_rows: int, seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Probabilities of two classes; class 1 is right where it is likely, class 0 never."""
    generator = np.random.default_rng(seed)
    first = generator.uniform(0, 1, num_rows).astype(np.float32)
    probabilities = np.stack([first, 1 - first], axis=1)
    return probabilities, probabilities.argmax(axis=1) == 1


def test_a_learned_confidence_knows_which_answers_are_wrong() -> None:
    (fit, is_right), (held, held_is_right) = made(400, 0), made(200, 1)
    chances = learned(with_class=True)(fit, held, is_right)
    assert chances[held_is_right].min() > chances[~held_is_right].max()
    blind = learned(with_class=False)(fit, held, is_right)
    assert abs(blind[held_is_right].mean() - blind[~held_is_right].mean()) < 0.05


def test_a_perfect_confidence_takes_the_fewest_macs() -> None:
    """Exit 1 is right in half of the rows and costs a tenth; the last one always is."""
    generator = np.random.default_rng(0)
    is_right = np.stack([generator.random(2000) < 0.5, np.ones(2000, dtype=bool)], axis=1)
    perfect = np.where(is_right[:, 0], 0.9, 0.1) + generator.uniform(0, 0.05, 2000)

    def view(first: NDArray[np.float64]) -> SplitView:
        confidences = np.stack([first, np.ones(2000)], axis=1)
        chances = is_right.astype(np.float64)
        return SplitView(confidences, is_right, chances, np.array([10, 90]), np.array([0, 0]))

    right = macs_at_drops(view(perfect), view(perfect))
    # half of the rows at 10 % and half at 100 %, less what is given up at once
    assert right == pytest.approx([0.55 - 0.9 * drop for drop in DROPS], abs=0.03)
    blind = view(generator.random(2000))
    at_random = macs_at_drops(blind, blind)
    assert at_random == pytest.approx([1 - 0.9 * drop / 0.5 for drop in DROPS], abs=0.03)


def test_measures_of_a_real_bundle(digits_bundle: Bundle) -> None:
    num_exits = digits_bundle.manifest.num_exits
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 300)
    logits = [
        (4 * np.eye(10)[labels] + generator.normal(0, 2.5 - 0.5 * k, (300, 10))).astype(np.float32)
        for k in range(num_exits)
    ]
    rows = HeldOut(logits, labels)
    fit, held = rows.take(np.arange(150)), rows.take(np.arange(150, 300))
    judged = judge(digits_bundle, fit, held, MEASURES["largest probability"])
    assert judged.auroc.shape == (num_exits,)
    assert (judged.auroc > 0.6).all()
    assert (np.diff(judged.macs) <= 0).all()  # the more may be lost, the fewer
    assert (judged.macs > 0.2).all()
    assert (judged.macs <= 1.1).all()


def test_the_table_has_what_is_saved_and_its_spread() -> None:
    baseline = [Judged(np.array([0.8, 0.9]), np.full(4, macs)) for macs in (0.5, 0.6)]
    better = [Judged(np.array([0.82, 0.9]), np.full(4, macs)) for macs in (0.49, 0.57)]
    *_, first, second = table({"largest probability": baseline, "margin": better}).splitlines()
    assert first == (
        "| largest probability | 85.00 | 55.0 | 55.0 | 55.0 | 55.0 | +0.0 (+0.0 to +0.0) |"
    )
    assert second == "| margin | 86.00 | 53.0 | 53.0 | 53.0 | 53.0 | +3.5 (+2.0 to +5.0) |"
