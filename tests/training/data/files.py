"""Small image files and tables."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow

from training.data import DataError
from training.data.layout import open_rows
from training.data.rows import SplitName

ANIMALS = ["ant", "bee", "cat"]


def complaint(source: Path | str, split: SplitName = "train") -> str:
    """What is wrong with a split, in one line."""
    with pytest.raises(DataError) as refused:
        open_rows(str(source), split)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def grey(value: int, size: int = 4) -> Pillow.Image:
    return Pillow.new("RGB", (size, size), (value, value, value))


def write_images(folder: Path, values: Sequence[int], size: int = 4) -> list[Path]:
    """One PNG of each value, named for its place."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{place}.png" for place in range(len(values))]
    for path, value in zip(paths, values, strict=True):
        grey(value, size).save(path)
    return paths


def write_parquet(
    directory: Path,
    images: Sequence[object],
    split: str = "train",
    kind: object = None,
    labels: Sequence[object] | None = None,
) -> Path:
    """A parquet file of `image` and `label`; image i has label i modulo three, if none is given."""
    rows = Dataset.from_dict(
        {
            "image": list(images),
            "label": [i % 3 for i in range(len(images))] if labels is None else list(labels),
        },
        features=Features({"image": Image(), "label": kind or ClassLabel(names=ANIMALS)}),
    )
    directory.mkdir(exist_ok=True)
    path = directory / f"{split}-00000-of-00001.parquet"
    rows.to_parquet(str(path))
    return path
