"""A run can be killed at any moment and ends as if it had not been."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from models.bundle.errors import UserError
from training import checkpoint
from training import run as run_module
from training.augment import mixed, normalised
from training.checkpoint import Checkpoint, CheckpointError
from training.config import TrainConfig
from training.data import DataError, load_images, split_rows
from training.distributed import World
from training.feed import Held, draw_order
from training.loop import train
from training.losses import UNLABELLED, annealed, exit_wise_loss
from training.run import BEST, LAST, Diverged, Run, Stopped
from training.run_data import SPLITS

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
    images_per_class=23,
)
"""Four batches an epoch with two rows left over; every batch raises the temperature."""

CPU = World(torch.device("cpu"))

Result = TypeVar("Result")


class Killed(BaseException):
    """Stands for the end of the process."""


def silent(_: str) -> None:
    return None


def run_of(directory: Path, **changes: object) -> Run:
    directory.mkdir(exist_ok=True)
    return Run(CONFIG.model_copy(update=changes), directory, CPU)


def held(run: Run) -> Held:
    assert isinstance(run.feed, Held)
    return run.feed


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
    monkeypatch.setattr(run_module, "annealed", dying(annealed, 4 + 2))
    with pytest.raises(Killed):
        train(CONFIG, tmp_path, silent)
    monkeypatch.setattr(run_module, "annealed", annealed)
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
    assert run.selection is not None
    images = normalised(run.selection.inputs[0], run.mean, run.std)
    with torch.no_grad():
        logits = run.net.eval()(images)
    labels = run.selection.labels
    assert found == pytest.approx([(z.argmax(1) == labels).float().mean().item() for z in logits])


def test_an_epoch_visits_rows_once_and_drops_the_incomplete_batch(tmp_path: Path) -> None:
    run = run_of(tmp_path, flip=False, crop_padding=0)
    order = draw_order(len(run.splits.train), len(run.splits.unlabelled))
    assert run.steps_per_epoch == 4
    feed = held(run)
    batches = [feed.batch(order[start : start + 32]) for start in range(0, 128, 32)]
    assert [tuple(images.shape) for images, _ in batches] == [(32, 1, 8, 8)] * 4
    known = normalised(feed.images.images, run.mean, run.std).flatten(1)
    seen = torch.cat([images.flatten(1) for images, _ in batches])
    rows = torch.cdist(seen, known).argmin(dim=1)
    assert len(set(rows.tolist())) == 128
    assert torch.equal(feed.images.labels[rows], torch.cat([labels for _, labels in batches]))


def test_a_training_split_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^130 training rows do not fill one batch of 131$"):
        run_of(tmp_path, batch_size=131)


@pytest.mark.parametrize("loss", ["distillation", "exit-wise"])
def test_a_step_moves_every_weight_that_has_a_gradient(loss: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, loss=loss)
    before = {name: p.clone() for name, p in run.net.named_parameters()}
    run.net.train()
    run.order, run.epoch = (
        draw_order(len(run.splits.train), len(run.splits.unlabelled)),
        1,
    )  # the warm-up is over
    run.train_step()
    mean_loss, accuracy = run.epoch_means()
    assert mean_loss > 0
    assert len(accuracy) == 3
    assert all(0 <= share <= 1 for share in accuracy)
    has_gradient = {n for n, p in run.net.named_parameters() if p.grad is not None and p.grad.any()}
    has_moved = {n for n, p in run.net.named_parameters() if not torch.equal(p, before[n])}
    assert has_gradient
    assert has_gradient <= has_moved
    assert (run.distillation_temperature.item() > 1) == (loss == "distillation")


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
    assert str(stopped.value) == (
        f"stopped in epoch 2; the same command goes on from {tmp_path / LAST}"
    )
    saved = checkpoint.load(tmp_path / LAST)
    assert (saved.epoch, saved.step) == (1, 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(CONFIG, tmp_path, silent)
    assert steps == 12
    assert_same_end(tmp_path, uninterrupted)


def test_a_batch_in_two_parts_takes_the_mean_of_their_gradients(tmp_path: Path) -> None:
    runs = []
    for parts in (1, 2):
        run = run_of(tmp_path / str(parts), micro_batches=parts)
        run.net.eval()  # normalisation by fixed statistics does not see the parts
        run.order = draw_order(len(run.splits.train), len(run.splits.unlabelled))
        run.train_step()
        runs.append(run)
    whole, halves = runs
    assert torch.equal(whole.order, halves.order)
    for one, other in zip(whole.net.parameters(), halves.net.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)  # some features no exit reads
        if one.grad is not None and other.grad is not None:
            assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    assert halves.epoch_means()[0] == pytest.approx(whole.epoch_means()[0], rel=1e-5)
    assert halves.num_correct.tolist() == whole.num_correct.tolist()
    assert halves.distillation_temperature.item() == whole.distillation_temperature.item() == 1.05


def test_every_second_row_of_a_batch_is_unlabelled(tmp_path: Path) -> None:
    run = run_of(tmp_path, unlabelled_per_class=6)
    num_labelled, num_unlabelled = len(run.splits.train), len(run.splits.unlabelled)
    assert (num_labelled, num_unlabelled, run.steps_per_epoch) == (130, 60, 8)
    order = draw_order(len(run.splits.train), len(run.splits.unlabelled))
    assert sorted(order[0::2].tolist()) == list(range(num_labelled))
    counts = order[1::2].bincount(minlength=num_labelled + num_unlabelled)[num_labelled:]
    assert counts.sum() == num_labelled
    assert set(counts.tolist()) == {2, 3}  # 130 draws from 60 rows, all before any comes again
    _, labels = held(run).batch(order[:32])
    assert labels[1::2].eq(UNLABELLED).all()
    assert labels[0::2].ge(0).all()
    run.train_epoch()
    assert all(0.05 < share <= 1 for share in run.epoch_means()[1])


def test_the_moving_average_of_the_weights_is_judged_and_saved(tmp_path: Path) -> None:
    run = run_of(tmp_path, ema_decay=0.5, epochs=1)
    run.net.train()
    run.order = draw_order(len(run.splits.train), len(run.splits.unlabelled))
    weights = []
    for _ in range(3):
        run.train_step()
        weights.append(run.net.heads[0][0][0].weight.detach().clone())
    expected = 0.5 * (0.5 * weights[0] + 0.5 * weights[1]) + 0.5 * weights[2]
    found = run.snapshot().weights["heads.0.0.0.weight"]
    assert torch.allclose(found, expected, atol=1e-6)
    assert run.average is not None
    for p in run.average.parameters():
        p.data.zero_()
    assert run.selection_accuracy() == [pytest.approx(0.1)] * 3  # all logits are equal


def test_a_resumed_average_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"ema_decay": 0.9, "epochs": 2})
    train(config, tmp_path / "whole", silent)
    monkeypatch.setattr(run_module, "annealed", dying(annealed, 4 + 2))
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", silent)
    monkeypatch.setattr(run_module, "annealed", annealed)
    train(config, tmp_path / "killed", silent)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_only_every_nth_epoch_and_the_last_are_judged(tmp_path: Path) -> None:
    lines: list[str] = []
    train(CONFIG.model_copy(update={"selection_interval": 2}), tmp_path, lines.append)
    epochs = [line.split(":")[0] for line in lines if line.startswith("epoch")]
    assert epochs == ["epoch 2", "epoch 3"]


def test_a_run_can_start_from_an_earlier_ones_best_weights(
    uninterrupted: Path, tmp_path: Path
) -> None:
    earlier = checkpoint.load(uninterrupted / BEST).weights
    run = run_of(tmp_path, start_from=str(uninterrupted), seed=CONFIG.seed)
    assert all(torch.equal(run.net.state_dict()[name], value) for name, value in earlier.items())
    assert run.epoch == 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seed": 1}, r"has learned from rows that are to be kept apart$"),
        ({"calibration_per_class": 6}, r"has learned from rows that are to be kept apart$"),
        ({"net": "vit-tiny"}, r"holds a msdnet-tiny, not a vit-tiny$"),
    ],
)
def test_what_an_earlier_run_learned_is_not_kept_apart_later(
    change: dict[str, object], complaint: str, uninterrupted: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        run_of(tmp_path, start_from=str(uninterrupted), **change)


def test_a_run_that_diverges_ends_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is NaN from the second epoch on."""
    original = Run.train_step

    def train_step(run: Run) -> None:
        original(run)
        if (run.epoch, run.step) == (1, 2):
            run.net.heads[0][0][0].weight.data.fill_(float("nan"))

    monkeypatch.setattr(Run, "train_step", train_step)
    with pytest.raises(Diverged) as ended:
        train(CONFIG, tmp_path, silent)
    assert str(ended.value) == (
        "training diverged in epoch 2: its loss is no finite number; "
        f"{tmp_path} keeps last.pt and best.pt of the epochs before; "
        "try a lower learning rate than 0.1 in a new run"
    )
    for name in (LAST, BEST):
        saved = checkpoint.load(tmp_path / name)
        assert saved.epoch == 1
        assert all(x.isfinite().all() for x in saved.net.values())


def test_weights_that_diverge_in_the_last_step_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Run.train_step

    def train_step(run: Run) -> None:
        original(run)
        if (run.epoch, run.step) == (2, 4):
            run.net.heads[0][0][0].weight.data[0] = float("inf")

    monkeypatch.setattr(Run, "train_step", train_step)
    with pytest.raises(Diverged):
        train(CONFIG, tmp_path, silent)
    assert checkpoint.load(tmp_path / LAST).epoch == 2


def test_a_frozen_backbone_stays_as_it_is(tmp_path: Path) -> None:
    run = run_of(tmp_path, freeze="backbone", warmup_epochs=0)
    before = {name: value.clone() for name, value in run.net.state_dict().items()}
    run.train_epoch()
    changed = {n for n, value in run.net.state_dict().items() if not torch.equal(value, before[n])}
    assert changed
    assert all(name.startswith("heads.") for name in changed)


def test_the_backbone_can_have_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    run = run_of(tmp_path, backbone_learning_rate=0.002, learning_rate=0.1, schedule="step")
    run.train_epoch()
    segments, heads = run.optimizer.param_groups
    assert (segments["lr"], heads["lr"]) == (pytest.approx(0.002), pytest.approx(0.1))
    assert len(segments["params"]) == len(list(run.net.segments.parameters()))
    assert len(heads["params"]) == len(list(run.net.heads.parameters()))


def test_a_run_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("notes")
    with pytest.raises(UserError, match=r"run is a file, not a run's directory$"):
        train(CONFIG, tmp_path / "run", silent)


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_mixed_images_have_the_losses_of_both_labels(mixing: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, mixing=mixing, flip=False, crop_padding=0, loss="exit-wise")
    run.net.eval()
    run.order = draw_order(len(run.splits.train), 0)
    torch.manual_seed(10)  # a mixed batch
    images, labels = held(run).batch(run.order[:32])
    with torch.no_grad():
        made, share = mixed(images, run.config.mixing or "mixup")
        logits = run.net(made)
        own, partners = (exit_wise_loss(logits, y) for y in (labels, labels.roll(2)))
    assert 0.05 < share < 0.95
    torch.manual_seed(10)
    run.train_step()
    assert run.epoch_means()[0] == pytest.approx((share * own + (1 - share) * partners).item())


def test_a_resumed_run_with_every_option_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"optimizer": "muon", "gradient_scaling": True, "cutout": 3, "mixing": "mixup"}
    more = {"teachers": "ensemble", "label_smoothing": 0.1, "epochs": 2, "micro_batches": 2}
    config = CONFIG.model_copy(update=options | more)
    train(config, tmp_path / "whole", silent)
    monkeypatch.setattr(run_module, "annealed", dying(annealed, 4 + 2))
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", silent)
    monkeypatch.setattr(run_module, "annealed", annealed)
    train(config, tmp_path / "killed", silent)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_scaled_gradients_are_what_the_step_takes(tmp_path: Path) -> None:
    plain, scaled = (
        run_of(tmp_path / str(on), gradient_scaling=on, flip=False, crop_padding=0)
        for on in (False, True)
    )
    for run in (plain, scaled):
        run.net.eval()
        run.order = torch.arange(32)
        run.train_step()
    for number, factor in enumerate((3, 2, 1)):
        pairs = zip(
            plain.net.segments[number].parameters(),
            scaled.net.segments[number].parameters(),
            strict=True,
        )
        for one, other in pairs:
            if one.grad is not None and other.grad is not None:
                assert torch.allclose(one.grad, factor * other.grad, rtol=1e-4, atol=1e-6)
    heads = zip(plain.net.heads.parameters(), scaled.net.heads.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in heads if a.grad is not None)


@pytest.mark.parametrize(("capability", "expected"), [("AVX2", False), ("AVX512", True)])
def test_bfloat16_is_used_where_the_processor_has_it(
    capability: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert run_of(tmp_path, bf16=True).is_bf16 == expected
    assert not run_of(tmp_path).is_bf16
