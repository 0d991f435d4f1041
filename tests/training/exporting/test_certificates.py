"""Certificates keep their promise on simulated calibration draws, and say no where they must."""

from collections.abc import Callable

import numpy as np
import pytest

from training.exporting.certificates import Losses, certified_index, log_wealth, upper_bound

DELTA = 0.1
EPSILON = 0.02
DRAWS = 1000
WORSE = np.array([0.01, 0.015, 0.02, 0.03, 0.0402, 0.06, 0.08])
BETTER = np.array([0.01, 0.01, 0.01, 0.02, 0.02, 0.02, 0.02])
RISKS = WORSE - BETTER
"""True losses along a path: 0, 0.5, 1, 1, 2.02, 4 and 6 points. The fifth is the trap: it is
barely beyond `EPSILON`, all before it are well within."""


def drawn_losses(generator: np.random.Generator, rows: int = 1000) -> list[Losses]:
    """One calibration draw: the losses of every policy on the same rows."""
    luck = generator.random((rows, 1))
    losses = (luck < WORSE).astype(float) - (luck > 1 - BETTER)
    return list(losses.T)


def naive_index(path: list[Losses]) -> int | None:
    """The same rule without a bound: the mean loss on the draw decides."""
    failures = [losses.mean() > EPSILON for losses in path]
    first = failures.index(True) if any(failures) else len(path)
    return first - 1 if first else None


def share_broken(rule: Callable[[list[Losses]], int | None]) -> tuple[float, float]:
    """Shares of draws in which `rule` breaks its promise, and in which it certifies anything."""
    generator = np.random.default_rng(0)
    chosen = [rule(drawn_losses(generator)) for _ in range(DRAWS)]
    broken = [index is not None and RISKS[index] > EPSILON for index in chosen]
    return float(np.mean(broken)), float(np.mean([index is not None for index in chosen]))


def test_the_promise_holds_in_all_but_a_delta_share_of_calibration_draws() -> None:
    broken, certified = share_broken(lambda path: certified_index(path, EPSILON, DELTA))
    assert broken <= DELTA
    assert certified > 0.9


def test_without_the_bound_the_promise_is_broken() -> None:
    broken, _ = share_broken(naive_index)
    assert broken > 3 * DELTA


def test_bounds_hold_in_all_but_a_delta_share_of_draws_and_close_in() -> None:
    generator = np.random.default_rng(1)
    draws = [drawn_losses(generator)[4] for _ in range(DRAWS)]
    bounds = np.array([upper_bound(losses, DELTA) for losses in draws])
    assert (bounds < RISKS[4]).mean() <= DELTA
    deviation = np.sqrt(WORSE[4] + BETTER[4]) / np.sqrt(1000)
    assert RISKS[4] < bounds.mean() < RISKS[4] + 2.2 * deviation


def losses_of(*counts: int) -> Losses:
    """So many losses of 1, -1 and 0, in a fixed random order."""
    losses = np.repeat([1.0, -1.0, 0.0], counts)
    return np.random.default_rng(0).permutation(losses)


SAFE, RISKY = losses_of(0, 0, 1000), losses_of(60, 0, 940)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([], None),
        ([RISKY], None),
        ([RISKY, SAFE, SAFE], None),
        ([SAFE], 0),
        ([SAFE, SAFE, SAFE], 2),
        ([SAFE, SAFE, RISKY], 1),
        ([SAFE, RISKY, SAFE, SAFE], 0),
    ],
)
def test_the_last_before_the_first_failure(path: list[Losses], expected: int | None) -> None:
    """So a policy that passes again after a failure is not taken."""
    assert certified_index(path, EPSILON, DELTA) == expected


def test_nothing_behind_the_first_failure_is_looked_at() -> None:
    seen: list[int] = []

    def path(index: int) -> Losses:
        seen.append(index)
        return [SAFE, RISKY, SAFE][index]

    assert certified_index(map(path, range(3)), EPSILON, DELTA) == 0
    assert seen == [0, 1]


def test_wealth_by_hand() -> None:
    """Two losses of 0 against a mean of 0.5: stakes of 0.9 gain 45% twice."""
    assert log_wealth(np.zeros(2), 0.5, DELTA) == pytest.approx(2 * np.log(1.45))
    assert log_wealth(np.array([1.0, 0.0]), 0.5, DELTA) == pytest.approx(
        np.log(0.55) + np.log1p(0.5 * 0.9)
    )


def test_the_first_stake_knows_nothing_of_its_loss() -> None:
    """Of 40 bets only the first is won; its stake is sqrt(2 log(10) / (40 / 4))."""
    losses = np.array([0.0] + [1.0] * 39)
    stake = np.sqrt(2 * np.log(10) / 10)
    assert log_wealth(losses, 0.5, DELTA) == pytest.approx(np.log1p(0.5 * stake))


@pytest.mark.parametrize("losses", [SAFE, RISKY, losses_of(30, 20, 450)])
def test_a_policy_passes_where_its_bound_is_within_the_target(losses: Losses) -> None:
    bound = upper_bound(losses, DELTA)
    assert certified_index([losses], bound + 1e-6, DELTA) == 0
    assert certified_index([losses], bound - 1e-6, DELTA) is None


def test_bounds_stay_between_zero_and_one() -> None:
    assert upper_bound(losses_of(0, 200, 0), DELTA) == 0
    assert upper_bound(np.ones(200), DELTA) == 1
    assert upper_bound(np.zeros(1), DELTA) == 1


@pytest.mark.parametrize(("num_rows", "worst"), [(100, 0.03), (1000, 0.003)])
def test_no_loss_at_all_is_still_no_proof(num_rows: int, worst: float) -> None:
    assert 0 < upper_bound(np.zeros(num_rows), DELTA) < worst


def test_more_rows_and_less_certainty_make_tighter_bounds() -> None:
    few, many = losses_of(30, 20, 950), losses_of(300, 200, 9500)
    assert upper_bound(many, DELTA) < upper_bound(few, DELTA) < upper_bound(few, 0.01)
