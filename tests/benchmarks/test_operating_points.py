"""What the benchmark of operating points says, where the truth is known."""

import numpy as np
import pytest

from benchmarks.confidence_measures import HeldOut
from benchmarks.operating_points import Outcome, outcomes, table
from models.bundle.bundle import Bundle


def drawn(rows: int, noise: list[float], seed: int) -> HeldOut:
    """An exit for each standard deviation of noise; even without noise labels are uncertain."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(0, 2, (rows, 10)).astype(np.float32)
    labels = (truth + generator.gumbel(size=truth.shape)).argmax(axis=1)
    drawn = (generator.normal(0, s, truth.shape).astype(np.float32) for s in noise)
    return HeldOut([truth + errors for errors in drawn], labels)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_where_all_exits_say_the_same_the_first_answers(
    digits_bundle: Bundle, share: float
) -> None:
    tune, judge = (drawn(500, [0, 0, 0], seed) for seed in (0, 1))
    manifest = digits_bundle.manifest
    segments, heads = ([g.macs for g in x] for x in (manifest.segments, manifest.exit_heads))
    first = Outcome(0, (segments[0] + heads[0]) / (sum(segments) + heads[-1]), "max_probability")
    found = outcomes(digits_bundle, tune, judge, share)
    assert found == dict.fromkeys(("fast", "balanced", "accurate"), first)


def test_where_early_exits_guess_only_the_last_may_answer(digits_bundle: Bundle) -> None:
    tune, judge = (drawn(500, [100, 100, 0], seed) for seed in (0, 1))
    accurate = outcomes(digits_bundle, tune, judge, 0.0)["accurate"]
    assert accurate == Outcome(0, 1, "max_probability")


def test_a_promise_is_kept_to_five_rows_of_ten_thousand() -> None:
    found = [Outcome(0.0055, 0.5, "margin"), Outcome(0.0065, 0.7, "max_probability")]
    lines = table({(0.5, "balanced"): found}).splitlines()
    assert lines[-1] == "| 0.5 | balanced | 0.60 ± 0.05 | 50 | 60.0 | 50 |"
