"""Batches decoded by worker processes, the same ones in a resumed run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training import checkpoint, feed, loop
from training import run as run_module
from training.augment import cut_out, mixed
from training.config import TrainConfig
from training.data import DataError, decoding
from training.distributed import World
from training.feed import Held, Streamed, draw_order
from training.losses import UNLABELLED
from training.run import LAST, Run

CPU = World(torch.device("cpu"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise around a colour, in sizes of their own."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 4)):
        for channel, name in enumerate(("ant", "bee", "cat")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                height, width = generator.integers(12, 30, size=2)
                pixels = generator.integers(0, 100, size=(height, width, 3), dtype=np.uint8)
                pixels[..., channel] += 120
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def config_of(data: Path, **changes: object) -> TrainConfig:
    values = {
        "data": str(data),
        "net": "msdnet-tiny",
        "image_size": 16,
        "selection_share": 0.1,
        "calibration_share": 0.1,
        "crop_padding": 0,
        "batch_size": 12,
        "epochs": 2,
        "schedule": "linear",
    }
    return TrainConfig.model_validate(values | changes)


def run_of(directory: Path, config: TrainConfig, world: World = CPU) -> Run:
    directory.mkdir(exist_ok=True)
    return Run(config, directory, world, lambda _: None)


def test_what_fits_is_held_and_random_crops_are_streamed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(photos)
    assert isinstance(run_of(tmp_path / "a", config).feed, Held)
    cut = config_of(photos, random_resized_crop=True)
    assert isinstance(run_of(tmp_path / "b", cut).feed, Streamed)
    monkeypatch.setattr(feed, "HELD_BYTES", 20 * 16 * 16 * 3)
    assert isinstance(run_of(tmp_path / "c", config).feed, Streamed)


def test_streamed_batches_are_those_that_would_be_held(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(photos, flip=False, unlabelled_per_class=5, images_per_class=15)
    held = run_of(tmp_path / "held", config).feed
    monkeypatch.setattr(feed, "HELD_BYTES", 0)
    monkeypatch.setattr(decoding, "WORTH_WORKERS", 1)
    streamed = run_of(tmp_path / "streamed", config).feed
    order = draw_order(held.num_labelled, held.num_unlabelled)
    assert torch.allclose(held.mean, streamed.mean, atol=0.05)
    streamed.mean, streamed.std = held.mean, held.std
    for step in (0, 1, 0, 2):  # also out of turn, as after a resumption
        ((images, labels, *_),) = held.parts(order, 0, step)
        ((others, other_labels, *_),) = streamed.parts(order, 0, step)
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
        assert labels[1::2].eq(UNLABELLED).all()


@pytest.mark.parametrize("is_cropped", [False, True])
def test_streamed_batches_are_cut_out_and_mixed(
    is_cropped: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "HELD_BYTES", 0)
    changes = {"flip": False, "random_resized_crop": is_cropped, "micro_batches": 2}
    plain = run_of(tmp_path / "plain", config_of(photos, **changes)).feed
    changed = config_of(photos, cutout=5, mixing="mixup", **changes)
    order = torch.arange(plain.num_labelled)
    whole, labels = (
        torch.cat(x) for x in zip(*(p[:2] for p in plain.parts(order, 0, 0)), strict=True)
    )
    torch.manual_seed(0)  # a mixed batch
    expected, share = mixed(cut_out(whole, 5), "mixup")
    assert 0.05 < share < 0.95
    made = run_of(tmp_path / "changed", changed).feed
    torch.manual_seed(0)
    parts = made.parts(order, 0, 0)
    assert [len(part.images) for part in parts] == [6, 6]
    assert torch.equal(torch.cat([part.images for part in parts]), expected)
    assert torch.equal(torch.cat([part.labels for part in parts]), labels)
    assert torch.equal(torch.cat([part.partner_labels for part in parts]), labels.roll(2))
    assert all(part.own_share == share for part in parts)


def test_processes_share_a_mixed_batch_that_is_held(photos: Path, tmp_path: Path) -> None:
    config = config_of(photos, micro_batches=2, mixing="cutmix", cutout=4)
    run = run_of(tmp_path / "whole", config)
    order = torch.arange(run.feed.num_labelled)
    torch.manual_seed(10)
    expected = run.feed.parts(order, 0, 1)
    for rank in (0, 1):
        torch.manual_seed(10)
        (part,) = Held(run.data, config, World(torch.device("cpu"), rank, 2)).parts(order, 0, 1)
        for found, wanted in zip(part, expected[rank], strict=True):
            assert found is not None
            assert wanted is not None
            assert torch.equal(found, wanted)


def test_processes_share_a_streamed_batch(photos: Path, tmp_path: Path) -> None:
    config = config_of(photos, micro_batches=2, random_resized_crop=True)
    whole = run_of(tmp_path / "whole", config)
    order = draw_order(whole.feed.num_labelled, 0)
    expected = whole.feed.parts(order, 0, 1)
    assert len(expected) == 2
    for rank in (0, 1):
        world = World(torch.device("cpu"), rank, 2)
        part = Streamed(whole.data, config, world, lambda _: None).parts(order, 0, 1)
        assert len(part) == 1
        assert torch.equal(part[0][0], expected[rank][0])
        assert torch.equal(part[0][1], expected[rank][1])


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_streamed_run_that_was_killed_ends_with_the_same_bits(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(photos, random_resized_crop=True, cutout=4, mixing="cutmix")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loop.train(config, tmp_path / "whole", lambda _: None)
    original: Callable[[Run], None] = Run.train_step

    def train_step(run: Run) -> None:
        if (run.epoch, run.step) == (1, 2):
            raise Killed
        original(run)

    monkeypatch.setattr(run_module, "SAVE_INTERVAL_S", 0.0)
    monkeypatch.setattr(Run, "train_step", train_step)
    with pytest.raises(Killed):
        loop.train(config, tmp_path / "killed", lambda _: None)
    monkeypatch.setattr(Run, "train_step", original)
    assert checkpoint.load(tmp_path / "killed" / LAST).step == 2
    loop.train(config, tmp_path / "killed", lambda _: None)
    torch.set_num_threads(threads)
    one, other = (checkpoint.load(tmp_path / name / LAST).net for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_broken_image_is_named_or_its_place_is_taken_by_another(
    photos: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        (data / split).symlink_to(photos / split)
    config = config_of(data, random_resized_crop=True, undecodable="skip")
    run = run_of(tmp_path / "run", config)
    broken = run.data.train.rows.describe(int(run.splits.train[0]))
    content = Path(broken).read_bytes()
    try:
        Path(broken).write_bytes(content[:60])
        lines: list[str] = []
        fed = Streamed(run.data, config, CPU, lines.append)
        order = torch.arange(fed.num_labelled)
        ((images, labels, *_),) = fed.parts(order, 0, 0)
        assert torch.equal(images[0], images[1])
        assert labels[0] == labels[1]
        assert len(lines) == 1
        assert lines[0].startswith(f"skipped images that cannot be decoded: {broken} (")
        refusing = config.model_copy(update={"undecodable": "refuse"})
        fed = Streamed(run.data, refusing, CPU, lines.append)
        with pytest.raises(DataError, match=r"^1 of 12 images cannot be decoded: "):
            fed.parts(order, 0, 0)
    finally:
        Path(broken).write_bytes(content)
