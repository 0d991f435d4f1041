"""A run can be killed at any moment and ends as if it had not been."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from training import checkpoint, loop
from training.augment import normalised
from training.checkpoint import Checkpoint, CheckpointError
from training.config import TrainConfig
from training.data import DataError, load_images, split_rows
from training.loop import BEST, LAST, SPLITS, Run, channel_statistics, train
from training.losses import annealed

CONFIG = TrainConfig(
    data="digits",
    net="msdnet-tiny",
    epochs=3,
    batch_size=32,
    schedule="linear",
    warmup_epochs=1,
    distillation_confidence=0.1,
    crop_padding=1,
    calibration_per_class=5,
    selection_per_class=10,
    max_train_per_class=13,
)
"""Four batches an epoch with two rows left over; every batch raises the temperature."""


Result = TypeVar("Result")


class Killed(BaseException):
    """Stands for the end of the process."""


def silent(_: str) -> None:
    return None


def run_of(directory: Path, **changes: object) -> Run:
    directory.mkdir(exist_ok=True)
    return Run(CONFIG.model_copy(update=changes), directory, torch.device("cpu"))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums are rounded alike in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    train(CONFIG, directory, silent)
    return directory


def same(one: object, other: object) -> bool:
    """Equality down to the bits of every tensor."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_end(directory: Path, expected: Path) -> None:
    for name in (LAST, BEST):
        found, wanted = (vars(checkpoint.load(d / name)) for d in (directory, expected))
        differing = {key for key in wanted if not same(found[key], wanted[key])}
        assert differing <= {"git_commit"}  # where the process that started the run stood


def dying(function: Callable[..., Result], calls: int) -> Callable[..., Result]:
    """The function, but the process ends when its `calls`-th call is done."""
    count = 0

    def call(*arguments: object) -> Result:
        nonlocal count
        count += 1
        result = function(*arguments)
        if count == calls:
            raise Killed
        return result

    return call


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
    monkeypatch.setattr(loop, "annealed", dying(annealed, 4 + 2))
    with pytest.raises(Killed):
        train(CONFIG, tmp_path, silent)
    monkeypatch.setattr(loop, "annealed", annealed)
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
die = lambda line: line.startswith("epoch 3") and os.kill(os.getpid(), signal.SIGKILL)
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
    assert lines[0] == f"resuming {tmp_path} after epoch 2"
    assert_same_end(tmp_path, uninterrupted)


def test_the_run_did_learn_and_its_temperature_rose(uninterrupted: Path) -> None:
    """Or the comparisons above would compare nothing."""
    last = checkpoint.load(uninterrupted / LAST)
    assert last.epoch == 3
    assert last.distillation_temperature == pytest.approx(1.05**12)
    start = run_of(uninterrupted.with_name("start"))
    assert not same(last.net, start.net.state_dict())


def test_a_finished_run_is_not_trained_again(
    uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (uninterrupted / LAST).read_bytes()
    assert train(CONFIG, uninterrupted, silent) == uninterrupted / BEST
    assert (uninterrupted / LAST).read_bytes() == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 0.05}, {"epochs": 4}])
def test_a_run_with_another_configuration_is_left_alone(
    change: dict[str, object], uninterrupted: Path
) -> None:
    before = {name: (uninterrupted / name).read_bytes() for name in (LAST, BEST, SPLITS)}
    with pytest.raises(CheckpointError, match="holds a run with another configuration"):
        train(CONFIG.model_copy(update=change), uninterrupted, silent)
    assert {name: (uninterrupted / name).read_bytes() for name in before} == before


def test_the_splits_are_saved_as_they_were_drawn(uninterrupted: Path) -> None:
    saved = np.load(uninterrupted / SPLITS)
    drawn = vars(split_rows(load_images("digits", "train").labels, CONFIG))
    assert set(saved) == set(drawn)
    assert all(np.array_equal(saved[name], rows) for name, rows in drawn.items())
    assert [len(saved[name]) for name in ("train", "selection", "calibration")] == [130, 100, 50]
    assert len(np.unique(np.concatenate(list(drawn.values())))) == 280


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
    assert lines[1] == "epoch 2: selection accuracy 90.0 50.0"


def test_without_a_selection_split_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"selection_per_class": 0, "epochs": 2})
    best = checkpoint.load(train(config, tmp_path, silent))
    assert best.epoch == 2
    assert same(best.net, checkpoint.load(tmp_path / LAST).net)


def test_selection_accuracy_is_of_the_selection_split(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.train_epoch()
    found = run.selection_accuracy()
    images = normalised(run.selection.images, run.mean, run.std)
    with torch.no_grad():
        logits = run.net.eval()(images)
    labels = run.selection.labels
    assert found == pytest.approx([(z.argmax(1) == labels).float().mean().item() for z in logits])


def test_an_epoch_visits_rows_once_and_drops_the_incomplete_batch(tmp_path: Path) -> None:
    run = run_of(tmp_path, flip=False, crop_padding=0)
    batches = list(run.batches())
    assert [tuple(images.shape) for images, _ in batches] == [(32, 1, 8, 8)] * 4
    known = normalised(run.train.images, run.mean, run.std).flatten(1)
    seen = torch.cat([images.flatten(1) for images, _ in batches])
    rows = torch.cdist(seen, known).argmin(dim=1)
    assert len(set(rows.tolist())) == 128
    assert torch.equal(run.train.labels[rows], torch.cat([labels for _, labels in batches]))


def test_a_training_split_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^130 training images do not fill one batch of 131$"):
        run_of(tmp_path, batch_size=131)


def test_channel_statistics_are_those_of_the_pixels() -> None:
    images = torch.randint(0, 256, (20, 4, 4, 3), dtype=torch.uint8)
    mean, std = channel_statistics(images)
    pixels = images.double() / 255
    assert mean.tolist() == pytest.approx(pixels.mean(dim=(0, 1, 2)).tolist())
    assert std.tolist() == pytest.approx(pixels.std(dim=(0, 1, 2), correction=0).tolist())


def test_a_constant_channel_normalises_to_zero() -> None:
    images = torch.full((2, 4, 4, 1), 77, dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert std.item() == pytest.approx(1 / 255)
    assert normalised(images, mean, std).abs().max() < 1e-4


@pytest.mark.parametrize("loss", ["distillation", "exit-wise"])
def test_a_step_moves_every_weight_that_has_a_gradient(loss: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, loss=loss)
    before = {name: p.clone() for name, p in run.net.named_parameters()}
    images, labels = next(iter(run.batches()))
    run.net.train()
    value, correct = run.step(images, labels)
    assert value.item() > 0
    assert correct.shape == (3,)
    assert all(0 <= hits <= 32 for hits in correct.tolist())
    has_gradient = {n for n, p in run.net.named_parameters() if p.grad is not None and p.grad.any()}
    has_moved = {n for n, p in run.net.named_parameters() if not torch.equal(p, before[n])}
    assert has_gradient
    assert has_gradient <= has_moved
    assert (run.distillation_temperature > 1) == (loss == "distillation")
