"""The best epoch, by accuracy on the selection split."""

from pathlib import Path

import pytest
import torch

from tests.training.runs import CONFIG, run_of, same, silent
from training import checkpoint
from training.augment import normalised
from training.checkpoint import Checkpoint
from training.loop import train
from training.run import LAST, Run

pytestmark = pytest.mark.usefixtures("one_thread")


SCORES = [[0.2, 0.6], [0.9, 0.5], [0.6, 0.8], [0.0, 1.0]]
"""Per epoch and exit: means of 0.4, 0.7, 0.7 and 0.5."""


def test_the_best_epoch_has_the_highest_mean_over_exits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "selection_accuracy", lambda run: SCORES[run.epoch - 1])
    lines: list[str] = []
    path = train(CONFIG.model_copy(update={"epochs": 4}), tmp_path, lines.append)
    best: Checkpoint = checkpoint.load(path)
    assert best.epoch == 2
    assert best.best_score == pytest.approx(0.7)
    last = checkpoint.load(tmp_path / LAST)
    assert last.epoch == 4
    assert last.best_score == pytest.approx(0.7)
    assert "epoch 2: selection accuracy 90.0 50.0" in lines


def test_without_a_selection_split_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"selection_per_class": 0, "epochs": 2})
    best = checkpoint.load(train(config, tmp_path, silent))
    assert best.epoch == 2
    assert same(best.net, checkpoint.load(tmp_path / LAST).net)


def test_selection_accuracy_is_of_the_selection_split(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.train_epoch()
    found = run.selection_accuracy()
    assert run.selection.held is not None
    images = normalised(run.selection.held.images, run.mean, run.std)
    with torch.no_grad():
        logits = run.net.eval()(images)
    labels = run.selection.held.labels
    assert found == pytest.approx([(z.argmax(1) == labels).float().mean().item() for z in logits])


def test_only_every_nth_epoch_and_the_last_are_judged(tmp_path: Path) -> None:
    lines: list[str] = []
    train(CONFIG.model_copy(update={"selection_interval": 2}), tmp_path, lines.append)
    epochs = [line.split(":")[0] for line in lines if line.startswith("epoch")]
    assert epochs == ["epoch 2", "epoch 3"]
