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
