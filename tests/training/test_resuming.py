"""A run can be killed at any moment and ends as if it had not been."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.runs import CONFIG, Killed, assert_same_end, dying, run_of, same, silent
from training import checkpoint, learner
from training.loop import train
from training.losses import annealed
from training.run import BEST, LAST, Run, Stopped

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_killed_after_any_save_a_run_ends_with_the_same_bits(
    calls: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", dying(save, calls))
    with pytest.raises(Killed):
        train(CONFIG, tmp_path, silent)
    monkeypatch.setattr(checkpoint, "save", save)
    train(CONFIG, tmp_path, silent)
    assert_same_end(tmp_path, uninterrupted)


def test_killed_amid_an_epoch_a_run_ends_with_the_same_bits(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "annealed", dying(annealed, 4 + 2))
    with pytest.raises(Killed):
        train(CONFIG, tmp_path, silent)
    monkeypatch.setattr(learner, "annealed", annealed)
    assert checkpoint.load(tmp_path / LAST).epoch == 1
    train(CONFIG, tmp_path, silent)
    assert_same_end(tmp_path, uninterrupted)


KILLS_ITSELF = """
import os, signal, sys
from pathlib import Path
import torch
from training import loop
from training.config import TrainConfig

torch.set_num_threads(1)
config = TrainConfig.model_validate_json(sys.argv[1])
die = lambda line: line.startswith("epoch 2") and os.kill(os.getpid(), signal.SIGKILL)
loop.train(config, Path(sys.argv[2]), die)
"""


def test_a_killed_process_leaves_a_run_that_another_ends_with_the_same_bits(
    uninterrupted: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLS_ITSELF, CONFIG.model_dump_json(), str(tmp_path)]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == -signal.SIGKILL
    assert checkpoint.load(tmp_path / LAST).epoch == 2
    lines: list[str] = []
    train(CONFIG, tmp_path, lines.append)
    assert f"resuming {tmp_path} after epoch 2, step 0" in lines
    assert_same_end(tmp_path, uninterrupted)


def test_the_run_did_learn_and_its_temperature_rose(uninterrupted: Path) -> None:
    """Or the comparisons above would compare nothing."""
    last = checkpoint.load(uninterrupted / LAST)
    assert last.epoch == 3
    assert last.distillation_temperature == pytest.approx(1.05**11)
    start = run_of(uninterrupted.with_name("start"))
    assert not same(last.net, start.net.state_dict())


def test_a_finished_run_is_not_trained_again(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (uninterrupted / LAST).read_bytes()
    assert train(CONFIG, uninterrupted, silent) == uninterrupted / BEST
    assert (uninterrupted / LAST).read_bytes() == before


def test_asked_to_stop_a_run_saves_and_ends_with_the_same_bits(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def train_step(run: Run) -> None:
        nonlocal steps
        steps += 1
        if steps == 4 + 2:
            os.kill(os.getpid(), signal.SIGINT)
        original(run)

    original = Run.train_step
    monkeypatch.setattr(Run, "train_step", train_step)
    with pytest.raises(Stopped) as stopped:
        train(CONFIG, tmp_path, silent)
    assert stopped.value.status == 130
    assert str(stopped.value) == (
        f"stopped in epoch 2; the same command goes on from {tmp_path / LAST}"
    )
    saved = checkpoint.load(tmp_path / LAST)
    assert (saved.epoch, saved.step) == (1, 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(CONFIG, tmp_path, silent)
    assert steps == 12
    assert_same_end(tmp_path, uninterrupted)


def test_a_resumed_average_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"ema_decay": 0.9, "epochs": 2})
    train(config, tmp_path / "whole", silent)
    monkeypatch.setattr(learner, "annealed", dying(annealed, 4 + 2))
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", silent)
    monkeypatch.setattr(learner, "annealed", annealed)
    train(config, tmp_path / "killed", silent)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_a_resumed_run_with_every_option_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"optimizer": "muon", "gradient_scaling": True, "cutout": 3, "mixing": "mixup"}
    more = {"teachers": "ensemble", "label_smoothing": 0.1, "epochs": 2, "micro_batches": 2}
    config = CONFIG.model_copy(update=options | more)
    train(config, tmp_path / "whole", silent)
    monkeypatch.setattr(learner, "annealed", dying(annealed, 4 + 2))
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", silent)
    monkeypatch.setattr(learner, "annealed", annealed)
    train(config, tmp_path / "killed", silent)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
