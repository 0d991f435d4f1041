from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle.bundle import Bundle
from models.bundle.policy import Policy, StopReason, policy_of_threshold
from training.evaluation.replay import run_policy, walk


def test_a_walk_by_hand() -> None:
    policy = Policy((0.5, None, 0.7, None), 1, 4)
    assert walk(policy, [0.51, 0, 0, 0]) == ([1], StopReason.CONFIDENT)
    assert walk(policy, [0.5, 1, 0.71, 0]) == ([1, 3], StopReason.CONFIDENT)
    assert walk(policy, [0.5, 1, 0.7, 0.1]) == ([1, 3, 4], StopReason.FINAL)
    assert walk(Policy((0.5, None, 0.7, None), 2, 4), [1, 1, 1, 0]) == ([3], StopReason.CONFIDENT)
    assert walk(Policy((0.9, None, 0.7, None), 1, 2), [0, 0, 0, 0]) == (
        [1, 2],
        StopReason.EXIT_LIMIT,
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.floats(0, 1))
def test_one_threshold_stops_at_the_first_exit_above_it(
    confidences: list[float], threshold: float
) -> None:
    num_exits = len(confidences)
    above = [exit for exit, c in enumerate(confidences[:-1], start=1) if c > threshold]
    expected = above[0] if above else num_exits
    ran, reason = walk(policy_of_threshold(threshold, num_exits), confidences)
    assert ran == list(range(1, expected + 1))
    assert reason is (StopReason.CONFIDENT if above else StopReason.FINAL)


@pytest.fixture
def costs() -> Bundle:
    """What `run_policy` reads of a bundle: segments of 10, 20 and 40 MACs, heads of 1, 2 and 3."""
    segments, heads = (
        [SimpleNamespace(macs=m) for m in macs] for macs in ((10, 20, 40), (1, 2, 3))
    )
    bundle: Bundle = SimpleNamespace(  # type: ignore[assignment]
        manifest=SimpleNamespace(segments=segments, exit_heads=heads)
    )
    return bundle


def test_a_policy_counts_only_the_heads_that_ran(costs: Bundle) -> None:
    confidences = np.array([[0.9, 0.0, 0.0], [0.2, 0.8, 0.0], [0.2, 0.1, 0.3], [0.6, 0.0, 0.0]])
    correct = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 1]], dtype=bool)
    agrees = np.array([[0, 0, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]], dtype=bool)
    result = run_policy(costs, policy_of_threshold(0.5, 3), confidences, correct, agrees)
    assert result.accuracy == 2 / 4
    assert result.agreement == 3 / 4
    assert result.exit_shares == [0.5, 0.25, 0.25]
    assert result.mean_macs == (11 + 33 + 76 + 11) / 4
    assert result.stop_reasons == {"confident": 3, "final": 1}
    skips_exit_1 = Policy((None, 0.5, None), 1, 3)
    result = run_policy(costs, skips_exit_1, confidences, correct, agrees)
    assert result.mean_macs == (75 + 32 + 75 + 75) / 4
    assert result.exit_shares == [0.0, 0.25, 0.75]
