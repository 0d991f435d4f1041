"""A run's rows, its configuration, what it starts from, and how it ends where it diverges."""

from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from models.bundle.errors import UserError
from tests.training.runs import CONFIG, held, run_of, silent
from training import checkpoint
from training.augment import normalised
from training.checkpoint import CheckpointError
from training.data import DataError, load_images, split_rows
from training.feed import draw_order
from training.learner import are_finite
from training.loop import LOCK, train
from training.losses import UNLABELLED
from training.run import BEST, LAST, Diverged, Run
from training.run_data import SPLITS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        (
            {"learning_rate": 0.05, "epochs": 4},
            "epochs was 3, is 4, learning_rate was 0.1, is 0.05",
        ),
    ],
)
def test_a_run_with_another_configuration_is_left_alone(
    change: dict[str, object], named: str, uninterrupted: Path
) -> None:
    """The message names each option that differs, with both values."""
    before = {name: (uninterrupted / name).read_bytes() for name in (LAST, BEST, SPLITS)}
    with pytest.raises(CheckpointError, match=f"holds a run with another configuration: {named}$"):
        train(CONFIG.model_copy(update=change), uninterrupted, silent)
    assert {name: (uninterrupted / name).read_bytes() for name in before} == before


def test_a_network_that_was_changed_since_is_refused_in_a_sentence(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    saved = run.snapshot()
    saved.net = {name: x for name, x in saved.net.items() if not name.startswith("heads.0")}
    with pytest.raises(CheckpointError, match=r"^msdnet-tiny gives another network than the one"):
        run.restore(saved)


def test_a_run_that_another_process_trains_is_left_alone(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / LOCK),
        pytest.raises(UserError, match=f"^{tmp_path} is in use: another process trains it$"),
    ):
        train(CONFIG, tmp_path, silent)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_the_splits_are_saved_as_they_were_drawn(uninterrupted: Path) -> None:
    saved = np.load(uninterrupted / SPLITS)
    drawn = vars(split_rows(load_images("digits", "train").labels, CONFIG))
    assert set(saved) == set(drawn)
    assert all(np.array_equal(saved[name], rows) for name, rows in drawn.items())
    assert [len(saved[name]) for name in ("train", "selection", "calibration")] == [130, 100, 50]
    assert len(np.unique(np.concatenate(list(drawn.values())))) == 280


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


def test_without_rows_left_for_unlabelled_ones_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^no rows are left for unlabelled_per_class: "):
        run_of(tmp_path, unlabelled_per_class=6, images_per_class=None)


def test_options_for_texts_are_refused_for_images(tmp_path: Path) -> None:
    message = "^the train split of digits has no texts: leave out tokenizer, max_tokens$"
    with pytest.raises(DataError, match=message):
        run_of(tmp_path, tokenizer="tokenizer.json", max_tokens=16)


def test_a_run_can_start_from_an_earlier_ones_best_weights(
    uninterrupted: Path, tmp_path: Path
) -> None:
    earlier = checkpoint.load(uninterrupted / BEST).weights
    run = run_of(tmp_path, start_from=str(uninterrupted), seed=CONFIG.seed)
    assert all(torch.equal(run.net.state_dict()[name], value) for name, value in earlier.items())
    assert run.epoch == 0


def test_a_run_normalises_as_the_one_that_it_starts_from(
    uninterrupted: Path, tmp_path: Path
) -> None:
    """Its weights were trained on what that mean and deviation made of the rows."""
    earlier = checkpoint.load(uninterrupted / BEST)
    own = run_of(tmp_path / "own", images_per_class=30)
    assert own.mean.tolist() != earlier.mean
    run = run_of(tmp_path / "run", images_per_class=30, start_from=str(uninterrupted))
    assert (run.mean.tolist(), run.std.tolist()) == (earlier.mean, earlier.std)
    assert run.feed.mean.tolist() == earlier.mean
    assert run.snapshot().mean == earlier.mean


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


MASKED = """
import torch
from models.nets.presets import build

def net(shape, num_classes):
    made = build("msdnet-tiny", shape, num_classes)
    made.segments[0].register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    made.segments[0].register_buffer("none", torch.empty(0))
    return made
"""


def test_what_is_infinite_from_the_start_has_not_diverged(tmp_path: Path) -> None:
    """An attention mask; weights beside it are judged as ever."""
    (tmp_path / "nets.py").write_text(MASKED)
    config = CONFIG.model_copy(update={"net": f"{tmp_path}/nets.py:net", "epochs": 1})
    train(config, tmp_path / "run", silent)
    assert checkpoint.load(tmp_path / "run" / BEST).epoch == 1
    run = run_of(tmp_path / "other", net=config.net)
    run.net.heads[0][0][0].weight.data[0] = float("inf")
    with pytest.raises(Diverged):
        run.refuse_divergence(*run.state)


def test_values_that_are_there_are_finite_or_not() -> None:
    assert are_finite(torch.empty(0))
    assert are_finite(torch.arange(3), torch.empty(0), torch.tensor([True]))
    assert not are_finite(torch.arange(3), torch.tensor([0.0, float("nan")]))


def test_a_run_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("notes")
    with pytest.raises(UserError, match=r"run is a file, not a run's directory$"):
        train(CONFIG, tmp_path / "run", silent)
