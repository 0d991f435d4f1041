"""Data sets by name or path, decoded once into memory, and their class-balanced splits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Image, load_dataset
from datasets.exceptions import DatasetsError
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from models.bundle.errors import UserError
from models.bundle.image import fit_image
from models.bundle.manifest import Input
from training.config import TrainConfig

SplitName = Literal["train", "test"]

DIGIT_SIZE = 8


class DataError(UserError):
    """The data set cannot be used; the message says why, in one sentence."""


@dataclass(frozen=True)
class LabelledImages:
    """uint8 images (rows, height, width, channels), int64 labels (rows,), and the labels' names."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageSource:
    """A split whose labels are known and whose images are decoded on demand."""

    labels: Tensor
    names: tuple[str, ...]
    decode: Callable[[NDArray[np.int64]], NDArray[np.uint8]]

    def take(self, rows: NDArray[np.int64]) -> LabelledImages:
        """Decodes these rows into memory, in their order."""
        images = torch.from_numpy(self.decode(rows))
        return LabelledImages(images, self.labels[torch.from_numpy(rows)], self.names)


def load_images(source: str, split: SplitName, image_size: int | None = None) -> LabelledImages:
    """Every image of `open_images`, decoded."""
    images = open_images(source, split, image_size)
    return images.take(np.arange(len(images.labels)))


def open_images(source: str, split: SplitName, image_size: int | None = None) -> ImageSource:
    """Opens "digits", a directory of parquet files or of image folders, or a hub name.

    Images are resized to squares of `image_size`; without one they keep the first image's size.
    """
    if source == "digits":
        if image_size not in (None, DIGIT_SIZE):
            raise DataError(f"digits are {DIGIT_SIZE} pixels wide and are not resized")
        return _digits(split)
    rows = _open(source, split)
    image, label = _column(rows, Image), _column(rows, ClassLabel)

    def decode(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        try:
            return _pixels(rows.select_columns([image]), image, image_size, index)
        except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a syntax error
            raise DataError(f"an image of {source!r} cannot be decoded: {error}") from error

    labels = torch.tensor(rows[label][:], dtype=torch.int64)
    return ImageSource(labels, tuple(rows.features[label].names), decode)


def _pixels(
    rows: Dataset, column: str, image_size: int | None, index: NDArray[np.int64]
) -> NDArray[np.uint8]:
    first = rows[0][column]
    width, height = (image_size, image_size) if image_size else first.size
    channels = 1 if first.mode == "L" else 3
    size = {"height": height, "width": width, "channels": channels}
    target = Input.model_validate(size | {"resize": "crop"})
    pixels = np.empty((len(index), height, width, channels), dtype=np.uint8)
    for row, example in enumerate(rows.select(index)):
        pixels[row] = fit_image(example[column], target)
    return pixels


def _open(source: str, split: SplitName) -> Dataset:
    path = Path(source)
    try:
        if path.is_dir():
            kind = "parquet" if any(path.rglob("*.parquet")) else "imagefolder"
            return load_dataset(kind, data_dir=str(path), split=split)
        return load_dataset(source, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"cannot load the {split} split of {source!r}: {error}") from error


def _column(rows: Dataset, feature: type) -> str:
    """The first column of that type; CIFAR-100's fine labels come before its coarse ones."""
    for name, kind in rows.features.items():
        if isinstance(kind, feature):
            return str(name)
    raise DataError(f"no {feature.__name__} column among {', '.join(rows.column_names)}")


def _digits(split: SplitName) -> ImageSource:
    """scikit-learn's 8x8 grey digits, a fixed quarter of them for testing."""
    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
    rows = train_test_split(
        np.arange(len(pixels)), test_size=0.25, random_state=0, stratify=data.target
    )[split == "test"]
    labels = torch.from_numpy(data.target[rows].astype(np.int64))
    return ImageSource(labels, tuple("0123456789"), pixels[rows].__getitem__)


@dataclass(frozen=True)
class Splits:
    """Disjoint row indices into one training set; `unlabelled` rows lend their images only."""

    train: NDArray[np.int64]
    selection: NDArray[np.int64]
    calibration: NDArray[np.int64]
    unlabelled: NDArray[np.int64]


def split_rows(labels: Tensor, config: TrainConfig) -> Splits:
    """Draws the rows of every class for each use, as many as `config` asks; equal seeds draw alike.

    Raises DataError for a class with too few rows; only unlabelled ones may run short.
    """
    generator = np.random.default_rng(config.seed)
    num_held = config.selection_per_class + config.calibration_per_class
    parts: list[list[NDArray[np.int64]]] = []
    for label in torch.unique(labels).tolist():
        rows = generator.permutation(np.flatnonzero(labels.numpy() == label))
        num_used = len(rows)
        if config.images_per_class is not None:
            num_used = config.images_per_class + config.calibration_per_class
        if not num_held < num_used <= len(rows):
            raise DataError(
                f"class {label} has {len(rows)} images, too few for {config.selection_per_class} to"
                f" select with, {config.calibration_per_class} to calibrate with and "
                f"{max(1, num_used - num_held)} to train on"
            )
        cuts = [config.selection_per_class, num_held, num_used]
        selection, calibration, train, spare = np.split(rows, cuts)
        parts.append([train, selection, calibration, spare[: config.unlabelled_per_class]])
    return Splits(*(np.sort(np.concatenate(rows)) for rows in zip(*parts, strict=True)))
