"""The overhead comparison on a tiny network: its timings, and its report."""

from statistics import median

import pytest

from training.paper import overhead
from training.paper.overhead import Overhead, markdown, measure
from training.paper.reproduce import EXPERIMENTS, RECIPE_CHANGES, Experiment


def test_rounds_are_compared_in_pairs() -> None:
    steps = {"exit-wise": [[1.0, 2.0, 9.0], [4.0]], "distillation": [[3.0], [5.0, 5.0, 1.0]]}
    result = Overhead("net", 64, steps, {"exit-wise": 1234, "distillation": 1234})
    assert result.ratios == [1.5, 1.25]
    text = markdown(result)
    assert "| exit-wise | 3000.0 | 1,234 |" in text
    assert "distillation / exit-wise: 1.375" in text


def test_steps_of_both_methods_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"net": "msdnet-tiny", "selection_per_class": 10, "batch_size": 32}
    monkeypatch.setitem(RECIPE_CHANGES, "tiny", tiny)
    monkeypatch.setitem(EXPERIMENTS, "cifar100-150", Experiment(50, ()))
    monkeypatch.setattr(overhead, "ROUNDS", 2)
    monkeypatch.setattr(overhead, "STEPS", 3)
    result = measure("digits", "tiny")
    assert (result.net, result.batch_size) == ("msdnet-tiny", 32)
    for rounds in result.steps_s.values():
        assert [len(steps) for steps in rounds] == [3, 3]
        assert 0 < median(rounds[0]) < 10
    assert result.parameters["exit-wise"] == result.parameters["distillation"] > 10_000
