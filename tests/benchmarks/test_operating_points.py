"""What the benchmark of operating points says, where the truth is known."""

from typing import get_args

import numpy as np

from benchmarks.confidence_measures import HeldOut
from benchmarks.operating_points import TO_SPARE, Outcome, Setting, outcomes, table
from models.bundle.bundle import Bundle
from models.bundle.calibration import JudgedBy
from training.exporting.operating_points import STANDARD_ERRORS


def drawn(rows: int, noise: list[float], seed: int) -> HeldOut:
    """An exit for each standard deviation of noise; even without noise labels are uncertain."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(0, 2, (rows, 10)).astype(np.float32)
    labels = (truth + generator.gumbel(size=truth.shape)).argmax(axis=1)
    drawn = (generator.normal(0, s, truth.shape).astype(np.float32) for s in noise)
    return HeldOut([truth + errors for errors in drawn], labels)


def test_where_all_exits_say_the_same_the_first_answers(digits_bundle: Bundle) -> None:
    manifest = digits_bundle.manifest
    segments, heads = ([g.macs for g in x] for x in (manifest.segments, manifest.exit_heads))
    first = Outcome(0, (segments[0] + heads[0]) / (sum(segments) + heads[-1]), "max_probability")
    found = outcomes(digits_bundle, drawn(1750, [0, 0, 0], seed=0), np.arange(1750))
    assert len(found) == 2 * len(TO_SPARE) * 3
    assert set(found.values()) == {first}


def test_where_early_exits_guess_only_the_last_may_answer(digits_bundle: Bundle) -> None:
    found = outcomes(digits_bundle, drawn(1750, [100, 100, 0], seed=0), np.arange(1750))
    for judged_by in get_args(JudgedBy):
        accurate = found[Setting(judged_by, STANDARD_ERRORS, "accurate")]
        assert accurate == Outcome(0, 1, "max_probability")


def test_with_more_to_spare_less_is_lost_on_other_rows(digits_bundle: Bundle) -> None:
    found = outcomes(digits_bundle, drawn(5000, [1.5, 1, 0.5], seed=0), np.arange(5000))
    for judged_by in get_args(JudgedBy):
        tight, ample = (found[Setting(judged_by, z, "fast")] for z in (0.0, STANDARD_ERRORS))
        assert ample.lost < tight.lost
        assert ample.macs > tight.macs


def test_a_limit_is_kept_to_five_rows_of_ten_thousand() -> None:
    found = [Outcome(0.0055, 0.5, "margin"), Outcome(0.0065, 0.7, "max_probability")]
    lines = table({Setting("labels", 2.5, "balanced"): found}).splitlines()
    assert lines[-1] == "| labels | 2.5 | balanced | 0.60 ± 0.05 | 50 | 60.0 | 50 |"
