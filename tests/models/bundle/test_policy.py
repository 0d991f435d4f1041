"""The laws of the stop rule, for every policy, every confidence and every budget."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle.calibration import OperatingPoint
from models.bundle.policy import (
    Policy,
    Spend,
    StopReason,
    consults,
    limit_reason,
    policy_at,
    policy_of_threshold,
    runs_head,
    stop_reason,
)

shares = st.floats(0, 1)
spends = st.builds(Spend, st.floats(0, 10) | st.just(inf), st.floats(0, 10) | st.just(inf))

POINT = OperatingPoint(
    thresholds=(0.5, 0.6, 0.7, None),
    consulted=(1, 3, 4),
    accuracy=0.9,
    mean_macs=1.0,
    exit_shares=(0.5, 0.0, 0.25, 0.25),
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    num_exits = draw(st.integers(1, 7))
    early = draw(st.lists(st.none() | shares, min_size=num_exits - 1, max_size=num_exits - 1))
    limits = st.integers(1, num_exits)
    return Policy((*early, None), draw(limits), draw(limits))


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Policy, list[float]]:
    """A policy, and what each exit's confidence would be."""
    policy = draw(policies())
    size = policy.num_exits
    return policy, draw(st.lists(shares, min_size=size, max_size=size))


def answer(
    policy: Policy, confidences: list[float], left: Spend, next_cost: Spend
) -> tuple[int, StopReason]:
    """Where a job answers and why, if nothing changes what is left from exit to exit."""
    for exit, confidence in enumerate(confidences, start=1):
        limit = limit_reason(policy, exit, left, next_cost)
        if runs_head(policy, exit, limit):
            reason = stop_reason(policy, exit, confidence, limit)
            if reason is not None:
                return exit, reason
    raise AssertionError("no answer")


@given(jobs(), spends, spends)
def test_every_job_is_answered_no_later_than_its_last_exit(
    job: tuple[Policy, list[float]], left: Spend, next_cost: Spend
) -> None:
    policy, confidences = job
    exit, _ = answer(policy, confidences, left, next_cost)
    assert exit <= min(policy.max_exit, policy.num_exits)


@given(jobs(), spends, spends)
def test_confident_means_above_the_threshold_of_a_consulted_exit(
    job: tuple[Policy, list[float]], left: Spend, next_cost: Spend
) -> None:
    policy, confidences = job
    exit, reason = answer(policy, confidences, left, next_cost)
    threshold = policy.thresholds[exit - 1]
    is_confident = (
        threshold is not None and exit >= policy.min_exit and confidences[exit - 1] > threshold
    )
    assert (reason is StopReason.CONFIDENT) == is_confident


@given(jobs())
def test_without_a_budget_an_unsure_job_goes_as_far_as_it_may(
    job: tuple[Policy, list[float]],
) -> None:
    policy, confidences = job
    exit, reason = answer(policy, confidences, Spend(), Spend(1.0, 1.0))
    if reason is not StopReason.CONFIDENT:
        assert exit == policy.max_exit
        is_last = exit == policy.num_exits
        assert reason is (StopReason.FINAL if is_last else StopReason.EXIT_LIMIT)


@given(jobs())
def test_a_threshold_of_one_never_stops_early(job: tuple[Policy, list[float]]) -> None:
    _, confidences = job
    never = policy_of_threshold(1.0, len(confidences))
    expected = len(confidences), StopReason.FINAL
    assert answer(never, confidences, Spend(), Spend()) == expected
    assert answer(never, [1.0] * len(confidences), Spend(), Spend()) == expected


@given(jobs(), st.data(), spends, spends)
def test_higher_thresholds_never_stop_earlier(
    job: tuple[Policy, list[float]], data: st.DataObject, left: Spend, next_cost: Spend
) -> None:
    policy, confidences = job
    raised = tuple(
        None if t is None else data.draw(st.floats(t, 1), label="raised") for t in policy.thresholds
    )
    higher = Policy(raised, policy.min_exit, policy.max_exit)
    first, _ = answer(policy, confidences, left, next_cost)
    assert answer(higher, confidences, left, next_cost)[0] >= first


@given(policies(), st.data(), spends, spends)
def test_a_limit_names_the_first_of_four_causes(
    policy: Policy, data: st.DataObject, left: Spend, next_cost: Spend
) -> None:
    exit = data.draw(st.integers(1, policy.num_exits), label="exit")
    causes = {
        StopReason.FINAL: exit == policy.num_exits,
        StopReason.EXIT_LIMIT: exit >= policy.max_exit,
        StopReason.DEADLINE: next_cost.latency_s > left.latency_s,
        StopReason.ENERGY: next_cost.energy_j > left.energy_j,
    }
    expected = next((reason for reason, holds in causes.items() if holds), None)
    assert limit_reason(policy, exit, left, next_cost) is expected


@given(policies(), st.data(), shares)
def test_a_head_is_skipped_only_where_its_answer_could_not_be_taken(
    policy: Policy, data: st.DataObject, confidence: float
) -> None:
    exit = data.draw(st.integers(1, policy.num_exits), label="exit")
    assert not runs_head(policy, exit, None) or consults(policy, exit)
    if not runs_head(policy, exit, None):
        assert stop_reason(policy, exit, confidence, None) is None
    assert runs_head(policy, exit, StopReason.DEADLINE)


@pytest.mark.parametrize(
    ("next_cost", "expected"),
    [
        (Spend(2.0, 5.0), None),  # exactly what is left still fits
        (Spend(2.0001, 5.0), StopReason.DEADLINE),
        (Spend(2.0, 5.0001), StopReason.ENERGY),
        (Spend(2.0001, 5.0001), StopReason.DEADLINE),
    ],
)
def test_a_cost_fits_up_to_what_is_left(next_cost: Spend, expected: StopReason | None) -> None:
    policy = policy_of_threshold(0.5, 3)
    assert limit_reason(policy, 1, Spend(2.0, 5.0), next_cost) is expected


def test_the_comparison_with_the_threshold_is_strict() -> None:
    policy = policy_of_threshold(0.5, 2)
    assert stop_reason(policy, 1, 0.5, None) is None
    assert stop_reason(policy, 1, 0.5000001, None) is StopReason.CONFIDENT


def test_a_confident_answer_at_a_limit_counts_as_confident() -> None:
    policy = policy_of_threshold(0.5, 2)
    assert stop_reason(policy, 1, 0.9, StopReason.DEADLINE) is StopReason.CONFIDENT
    assert stop_reason(policy, 1, 0.4, StopReason.DEADLINE) is StopReason.DEADLINE


def test_an_exit_below_min_exit_is_not_consulted() -> None:
    policy = policy_of_threshold(0.5, 3, min_exit=2)
    assert [consults(policy, exit) for exit in (1, 2, 3)] == [False, True, False]
    assert stop_reason(policy, 1, 0.9, None) is None


def test_an_operating_point_gives_thresholds_to_the_exits_it_consults() -> None:
    assert policy_at(POINT) == Policy((0.5, None, 0.7, None), 1, 4)
    assert policy_at(POINT, min_exit=2, max_exit=3) == Policy((0.5, None, 0.7, None), 2, 3)


def test_one_threshold_goes_to_every_exit_but_the_last() -> None:
    assert policy_of_threshold(0.8, 3) == Policy((0.8, 0.8, None), 1, 3)
    assert policy_of_threshold(0.8, 1) == Policy((None,), 1, 1)
    assert policy_of_threshold(0.8, 3, min_exit=2, max_exit=2) == Policy((0.8, 0.8, None), 2, 2)
