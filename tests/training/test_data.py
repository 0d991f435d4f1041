"""Data sets by name and path, and their splits."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from training.config import TrainConfig
from training.data import DataError, Splits, load_images, open_images, split_rows

ANIMALS = ["ant", "bee", "cat"]


@pytest.fixture
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keeps what the datasets library prepares out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def grey(value: int, size: int = 4) -> Pillow.Image:
    return Pillow.new("RGB", (size, size), (value, value, value))


def write_parquet(
    directory: Path, images: list[object], label: object, split: str = "train"
) -> Path:
    """Images as CIFAR-100's parquet files hold them, image i with fine label i modulo three."""
    rows = Dataset.from_dict(
        {
            "img": images,
            "fine_label": [i % 3 for i in range(len(images))],
            "coarse_label": [0] * len(images),
        },
        features=Features({"img": Image(), "fine_label": label, "coarse_label": label}),
    )
    directory.mkdir(exist_ok=True)
    path = directory / f"{split}-00000-of-00001.parquet"
    rows.to_parquet(str(path))
    return path


def test_digits_are_split_for_good() -> None:
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (tuple(train.images.shape), tuple(test.images.shape)) == (
        (1347, 8, 8, 1),
        (450, 8, 8, 1),
    )
    for part in (train, test):
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert len(part) == len(part.labels) == len(part.images)
        assert part.names == tuple("0123456789")
        assert (part.images.min().item(), part.images.max().item()) == (0, 255)
    assert test.labels.bincount().tolist() == [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]
    assert torch.equal(load_images("digits", "train").images, train.images)
    rows = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in rows for image in test.images)


def test_digits_are_not_resized() -> None:
    assert len(load_images("digits", "test", 8)) == 450
    with pytest.raises(DataError, match=r"^digits are 8 pixels wide and are not resized$"):
        load_images("digits", "test", 16)


@pytest.mark.usefixtures("_own_cache")
def test_a_directory_of_parquet_files(tmp_path: Path) -> None:
    data = tmp_path / "animals"
    write_parquet(data, [grey(10), grey(20), grey(30), grey(40)], ClassLabel(names=ANIMALS))
    write_parquet(data, [grey(50)], ClassLabel(names=ANIMALS), "test")
    train, test = load_images(str(data), "train"), load_images(str(data), "test")
    assert train.names == tuple(ANIMALS)
    assert train.labels.tolist() == [0, 1, 2, 0]
    assert (train.images.dtype, tuple(train.images.shape)) == (torch.uint8, (4, 4, 4, 3))
    assert [sorted(set(image.flatten().tolist())) for image in train.images] == [
        [10],
        [20],
        [30],
        [40],
    ]
    assert test.images.eq(50).all()


@pytest.mark.usefixtures("_own_cache")
def test_only_the_rows_taken_are_decoded(tmp_path: Path) -> None:
    images = [grey(10), grey(20), {"bytes": b"no image", "path": None}, grey(40)]
    write_parquet(tmp_path, images, ClassLabel(names=ANIMALS))
    source = open_images(str(tmp_path), "train")
    assert source.labels.tolist() == [0, 1, 2, 0]
    taken = source.take(np.array([3, 0]))
    assert taken.images[:, 0, 0, 0].tolist() == [40, 10]
    assert taken.labels.tolist() == [0, 0]
    with pytest.raises(DataError, match="cannot be decoded"):
        source.take(np.array([2]))


@pytest.mark.usefixtures("_own_cache")
def test_a_directory_of_image_folders(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    for split, values in (("train", {"bee": 1, "ant": 2}), ("test", {"ant": 3, "bee": 4})):
        for name, value in values.items():
            (data / split / name).mkdir(parents=True)
            grey(value, size=6).save(data / split / name / "1.png")
    train, test = load_images(str(data), "train"), load_images(str(data), "test", 3)
    assert train.names == ("ant", "bee")
    assert tuple(train.images.shape) == (2, 6, 6, 3)
    assert tuple(test.images.shape) == (2, 3, 3, 3)
    assert {
        (int(label), int(image[0, 0, 0]))
        for part in (train, test)
        for label, image in zip(part.labels, part.images, strict=True)
    } == {(0, 2), (1, 1), (0, 3), (1, 4)}


@pytest.mark.usefixtures("_own_cache")
def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    for name in ANIMALS:
        (tmp_path / "train" / name).mkdir(parents=True)
        grey(7).convert("L").save(tmp_path / "train" / name / "1.png")
    assert tuple(load_images(str(tmp_path), "train").images.shape) == (3, 4, 4, 1)


def refusal(source: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as refused:
        load_images(str(source), "test" if split == "test" else "train")
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("_own_cache")
def test_what_cannot_be_read_is_named_in_one_sentence(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert refusal(nothing).startswith(f"cannot load the train split of {str(nothing)!r}: ")
    nothing.mkdir()
    assert "doesn't contain any data files" in refusal(nothing)
    (nothing / "train-0.parquet").write_bytes(b"junk")
    assert refusal(nothing).startswith(f"cannot load the train split of {str(nothing)!r}: ")


@pytest.mark.usefixtures("_own_cache")
def test_parquet_files_that_cannot_train(tmp_path: Path) -> None:
    data, unnamed = tmp_path / "data", tmp_path / "unnamed"
    path = write_parquet(data, [grey(value) for value in range(100)], ClassLabel(names=ANIMALS))
    assert f"cannot load the test split of {str(data)!r}: " in refusal(data, "test")
    content = bytearray(path.read_bytes())
    content[20:500] = b"x" * 480
    path.write_bytes(content)
    assert refusal(data).startswith(f"cannot load the train split of {str(data)!r}: ")
    write_parquet(unnamed, [grey(1), grey(2), grey(3)], Value("int64"))
    assert refusal(unnamed) == "no ClassLabel column among img, fine_label, coarse_label"


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_a_damaged_image_is_no_traceback(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    png = BytesIO()
    Pillow.fromarray(noise).save(png, "PNG")
    truncated = png.getvalue()[: int(kept * len(png.getvalue()))]
    broken = {"bytes": truncated, "path": None}
    write_parquet(tmp_path, [grey(1, 16), broken, grey(3, 16)], ClassLabel(names=ANIMALS))
    assert refusal(tmp_path).startswith(f"an image of {str(tmp_path)!r} cannot be decoded: ")


def test_cifar_100_is_whole(cifar100: Path) -> None:
    for split, rows in (("train", 50_000), ("test", 10_000)):
        images = load_images(str(cifar100), "train" if split == "train" else "test")
        assert tuple(images.images.shape) == (rows, 32, 32, 3)
        assert images.labels.bincount().tolist() == [rows // 100] * 100
        assert images.names.index("otter") == 55
        assert len(set(images.names)) == 100


def config(
    images: int | None, selection: int, calibration: int, unlabelled: int = 0, seed: int = 0
) -> TrainConfig:
    return TrainConfig(
        data="digits",
        net="msdnet-tiny",
        images_per_class=images,
        selection_per_class=selection,
        calibration_per_class=calibration,
        unlabelled_per_class=unlabelled,
        seed=seed,
    )


class_sizes = st.lists(st.integers(30, 40), min_size=2, max_size=5)


def shuffled_labels(sizes: list[int], seed: int = 0) -> torch.Tensor:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return torch.from_numpy(np.random.default_rng(seed).permutation(labels))


def parts(splits: Splits) -> list[list[int]]:
    return [
        rows.tolist()
        for rows in (splits.train, splits.selection, splits.calibration, splits.unlabelled)
    ]


@given(
    class_sizes,
    st.none() | st.integers(10, 21),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 12),
    st.integers(0, 2**31),
)
def test_splits_are_disjoint_balanced_and_drawn_by_the_seed(
    sizes: list[int],
    images: int | None,
    selection: int,
    calibration: int,
    unlabelled: int,
    seed: int,
) -> None:
    labels = shuffled_labels(sizes)
    made = config(images, selection, calibration, unlabelled, seed)
    splits = split_rows(labels, made)
    assert parts(splits) == parts(split_rows(labels, made))
    everything = [row for rows in parts(splits) for row in rows]
    assert len(set(everything)) == len(everything)
    num_used = [size if images is None else images + calibration for size in sizes]
    for rows, expected in (
        (splits.train, [used - selection - calibration for used in num_used]),
        (splits.selection, [selection] * len(sizes)),
        (splits.calibration, [calibration] * len(sizes)),
        (
            splits.unlabelled,
            [min(unlabelled, size - used) for size, used in zip(sizes, num_used, strict=True)],
        ),
    ):
        assert labels[torch.from_numpy(rows)].bincount(minlength=len(sizes)).tolist() == expected


@pytest.mark.parametrize("images_per_class", [80, 150, 250, 350, 500])
def test_the_papers_splits_of_cifar_100(images_per_class: int) -> None:
    """X images per class, 50 of them to select with; all others lend their images."""
    labels = shuffled_labels([500] * 100)
    splits = split_rows(labels, config(images_per_class, 50, 0, unlabelled=500))
    sizes = {name: len(rows) / 100 for name, rows in vars(splits).items()}
    assert sizes == {
        "train": images_per_class - 50,
        "selection": 50,
        "calibration": 0,
        "unlabelled": 500 - images_per_class,
    }


def test_another_seed_draws_another_split() -> None:
    labels = shuffled_labels([50, 50])
    first, second = (split_rows(labels, config(None, 10, 10, seed=seed)) for seed in (0, 1))
    assert all(a != b for a, b in zip(parts(first)[:3], parts(second)[:3], strict=True))


def test_fewer_images_keep_selection_and_calibration() -> None:
    labels = shuffled_labels([50, 50])
    few, all_rows = (split_rows(labels, config(images, 10, 10)) for images in (15, None))
    assert parts(few)[1:] == parts(all_rows)[1:]
    assert set(parts(few)[0]) < set(parts(all_rows)[0])


@pytest.mark.parametrize("size", [5, 10, 15, 20])
def test_a_class_too_small_to_train_is_refused(size: int) -> None:
    labels = shuffled_labels([40, size])
    with pytest.raises(DataError) as refused:
        split_rows(labels, config(None, 10, 10))
    assert str(refused.value) == (
        f"class 1 has {size} images, too few for 10 to select with, 10 to calibrate with and "
        "1 to train on"
    )


def test_more_images_than_a_class_has_are_refused() -> None:
    labels = shuffled_labels([40, 30])
    with pytest.raises(DataError, match=r"^class 1 has 30 images, too few for .* 21 to train on$"):
        split_rows(labels, config(31, 10, 0))
