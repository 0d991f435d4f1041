"""The rows of one split: labels in memory, images opened one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from training.data.errors import DataError, listed

SplitName = Literal["train", "test"]
Labels = NDArray[np.int64]
Index = NDArray[np.int64]

DIGIT_SIZE = 8
TEST_SHARE = 0.2
"""Of a single file, which has no splits of its own."""


class NamedRows(Protocol):
    """One split's labels, which index `names`; `title` says where it was found."""

    @property
    def title(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> Labels: ...


class Rows(NamedRows, Protocol):
    """One split of images."""

    def open(self, row: int) -> Image.Image:
        """The image, opened but not decoded."""
        ...

    def describe(self, row: int) -> str:
        """The row's file or number, as a person finds it."""
        ...

    def identities(self) -> NDArray[np.generic]:
        """A value for each row that changes where its image is another."""
        ...


READ_BYTES = 2 * 2**30
"""Files of a split are read to know them again, unless together they are larger than this."""


@dataclass(frozen=True)
class ArrayRows:
    """Images that are decoded already: uint8 (rows, height, width, channels)."""

    title: str
    names: tuple[str, ...]
    labels: Labels
    pixels: NDArray[np.uint8]

    def open(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row].squeeze(axis=-1))

    def describe(self, row: int) -> str:
        return f"row {row} of {self.title}"

    def identities(self) -> NDArray[np.generic]:
        return np.array([sha256(image.tobytes()).digest()[:8] for image in self.pixels])


def digits(split: SplitName) -> ArrayRows:
    """scikit-learn's 8x8 grey digits, a fixed quarter of them for testing."""
    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]
    rows = fixed_part(data.target, 0.25, split)
    labels = data.target[rows].astype(np.int64)
    return ArrayRows(f"the {split} split of digits", tuple("0123456789"), labels, pixels[rows])


def part_of_file(labels: Labels, names: Sequence[str], file: str, split: SplitName) -> Index:
    """A split of a file's rows: a fixed fifth of every class tests, the rest trains.

    Raises DataError where a class, or the file, has too few rows for it.
    """
    sizes = np.bincount(labels, minlength=len(names)).tolist()
    single = [repr(name) for name, size in zip(names, sizes, strict=True) if size == 1]
    if single:
        raise DataError(
            f"a fifth of every class of {file} tests, and these have one row: {listed(single)}"
        )
    try:
        return np.sort(fixed_part(labels, TEST_SHARE, split))
    except ValueError as error:
        raise DataError(f"a fifth of {file} cannot be set apart: {error}") from error


def fixed_part(labels: Labels, test_share: float, split: SplitName) -> Index:
    """Rows of a split, mixed: a fixed share of every class tests, the rest trains.

    Raises ValueError where a class has too few rows for it.
    """
    rows = np.arange(len(labels))
    parts = train_test_split(rows, test_size=test_share, random_state=0, stratify=labels)
    part: Index = parts[split == "test"]
    return part
