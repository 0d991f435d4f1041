"""How many exits are attached where their number is left open."""

from unittest.mock import Mock

import numpy as np
import pytest

from training.attaching.choose import Tuning, choose


@pytest.mark.parametrize(
    ("expected_s", "num_early"),
    [
        ([0.6, 0.58, 0.575, 0.574, 0.573], 2),
        ([0.6, 0.594, 0.588, 0.583, 0.58], 1),  # two more together save more than one must
        ([0.6, 0.594, 0.588, 0.55, 0.545], 4),
    ],
)
def test_each_further_exit_must_save_its_share(
    expected_s: list[float], num_early: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = Mock(expected_s=lambda exits: expected_s[len(exits) - 1])
    monkeypatch.setattr(Tuning, "of", lambda *_: tuning)
    logits = [np.zeros((1, 2), np.float32)] * 7
    choice = choose(logits, Mock(), 1.0, np.arange(1), None)
    assert len(choice.exits) == num_early


@pytest.mark.parametrize(("num_rows", "nanoseconds"), [(100, (110 + 430) / 2), (40, 420)])
def test_what_a_request_takes_by_hand(num_rows: int, nanoseconds: float) -> None:
    """Where the early exit is sure it agrees. Of 40 rows one more would be over 2 %."""
    is_sure = np.arange(num_rows) % 2 == 0
    tuning = Tuning(
        confidences=np.stack([np.where(is_sure, 0.9, 0.1), np.ones(num_rows)], axis=1),
        agrees=np.stack([is_sure, np.ones(num_rows, bool)], axis=1),
        segments=np.array([100, 300]),
        heads=np.array([10, 20]),
    )
    assert tuning.expected_s((0,)) == pytest.approx(nanoseconds / 1e9)
