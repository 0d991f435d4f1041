"""Tables of images and labels: parquet files, and data sets of the Hugging Face hub."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetsError
from numpy.typing import NDArray
from PIL import Image
from pyarrow import ArrowException, ChunkedArray

from training.data.errors import DataError, Undecodable, listed, reason
from training.data.folders import SPLIT_NAMES
from training.data.rows import READ_BYTES, Index, Labels, SplitName

LABEL_COLUMNS = (
    *("label", "labels", "fine_label", "class", "target", "category", "intent", "sentiment"),
    *("topic", "species", "y"),
)


@dataclass(frozen=True)
class TableRows:
    """Rows `index` of a table; its column `images` holds encoded images."""

    title: str
    names: tuple[str, ...]
    labels: Labels
    index: Index
    images: ChunkedArray

    def open(self, row: int) -> Image.Image:
        value: Any = self.images[int(self.index[row])].as_py()
        if isinstance(value, dict):
            value = value["bytes"] or value["path"]
        if value is None:
            raise Undecodable(f"{self.describe(row)} has no image")
        return Image.open(io.BytesIO(value) if isinstance(value, bytes) else value)

    def describe(self, row: int) -> str:
        return f"row {self.index[row]} of {self.title}"

    def identities(self) -> NDArray[np.generic]:
        """Length and checksum of every encoded image; of a large split the lengths alone."""
        column = self.images
        if "struct" in str(column.type):
            column = pc.struct_field(column, "bytes")
        lengths: NDArray[np.int64] = pc.fill_null(pc.binary_length(column), 0).to_numpy()
        found = lengths.astype(np.int64)
        if found.sum() <= READ_BYTES:
            values = (value.as_py() for value in column)
            found = (found << 32) + np.array([crc32(value or b"") for value in values])
        return found[self.index]


def parquet_files(directory: Path, split: SplitName) -> list[Path]:
    """The parquet files of a split: DIR/SPLIT/*.parquet, or SPLIT*.parquet in DIR or DIR/data."""
    for name in SPLIT_NAMES[split]:
        pattern = re.compile(rf"{name}([-_.].*)?", re.IGNORECASE)
        for place in (directory, directory / "data"):
            found = [path for path in visible(place, "parquet") if pattern.fullmatch(path.stem)]
            if found := found or visible(place / name, "parquet"):
                return found
    return []


def visible(directory: Path, suffix: str) -> list[Path]:
    """Files of a suffix in order, without hidden ones: archives bring `._NAME` beside `NAME`."""
    return sorted(p for p in directory.glob(f"*.{suffix}") if not p.name.startswith("."))


def load_parquet(files: Sequence[Path], title: str) -> Dataset:
    try:
        return load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except (OSError, ValueError, ArrowException, DatasetsError) as error:
        raise DataError(f"cannot load {title}: {reason(error)}") from error


def table_rows(table: Dataset, title: str, names: tuple[str, ...] | None) -> TableRows:
    """Every row of a table that has one image column and labels of any kind."""
    image = image_column(table.features, title)
    label = label_column(table.features, title)
    labels, names = renumbered(*numbered(table, label, title), names, title)
    index = np.arange(len(labels))
    return TableRows(title, names, labels, index, table.data.column(image))


def image_column(features: Features, title: str) -> str:
    """The first column of images, or else of encoded bytes."""
    for is_image in (is_image_type, is_bytes_type):
        for name, kind in features.items():
            if is_image(kind):
                return str(name)
    raise DataError(f"{title} has no column of images among {', '.join(features)}")


def is_image_type(kind: object) -> bool:
    return isinstance(kind, ImageFeature)


def is_bytes_type(kind: object) -> bool:
    """Plain bytes, or a file's bytes beside its path."""
    if isinstance(kind, dict):
        return {"bytes", "path"} <= set(kind)
    return isinstance(kind, Value) and kind.dtype in ("binary", "large_binary")


def label_column(features: Features, title: str) -> str:
    """The first column of class labels, or else one of a label's usual name.

    CIFAR-100's fine labels come before its coarse ones.
    """
    for name, kind in features.items():
        if isinstance(kind, ClassLabel):
            return str(name)
    plain = [name for name, kind in features.items() if is_plain_label(kind)]
    for name in LABEL_COLUMNS:
        if name in plain or is_bool(features.get(name)):
            return name
    if len(plain) == 1:
        return str(plain[0])
    raise DataError(
        f"{title} has no column of labels among {', '.join(features)}; name it {LABEL_COLUMNS[0]!r}"
    )


def is_plain_label(kind: object) -> bool:
    return isinstance(kind, Value) and re.match(r"u?int|(large_)?string", kind.dtype) is not None


def is_bool(kind: object) -> bool:
    return isinstance(kind, Value) and kind.dtype == "bool"


def numbered(table: Dataset, column: str, title: str) -> tuple[Labels, tuple[str, ...]]:
    """Labels from 0, and their names: those of the column's type, or its own values in order."""
    refuse_missing(table, column, title)
    kind = table.features[column]
    given = table.data.column(column).to_numpy()
    if not isinstance(kind, ClassLabel):
        refuse_negative(given, title)
        refuse_decimals(given, column, title)
        found, labels = np.unique(given, return_inverse=True)
        names = (str(v).lower() if isinstance(v, bool) else str(v) for v in found.tolist())
        return labels.astype(np.int64), tuple(names)
    refuse_negative(given, title)
    beyond = int((given >= len(kind.names)).sum())
    if beyond:
        raise DataError(f"{beyond} rows of {title} have labels beyond the {len(kind.names)} named")
    return given.astype(np.int64), tuple(kind.names)


def refuse_missing(table: Dataset, column: str, title: str) -> None:
    """Raises DataError where a cell is null, or a string without a character."""
    cells = table.data.column(column).to_pylist()
    rows = [
        row for row, c in enumerate(cells) if c is None or (isinstance(c, str) and not c.strip())
    ]
    if rows:
        raise DataError(
            f"{len(rows)} rows of {title} have no {column}: rows {listed(map(str, rows))}"
        )


def refuse_negative(given: NDArray[Any], title: str) -> None:
    """Test labels that a competition keeps hidden are often -1."""
    if given.dtype.kind != "O" and (hidden := int((given < 0).sum())):
        raise DataError(f"{hidden} rows of {title} have labels below zero: they are hidden ones")


def refuse_decimals(given: NDArray[Any], column: str, title: str) -> None:
    """A label 250.10 would be called 250.1, as another one is."""
    if given.dtype.kind == "f" and (given != np.rint(given)).any():
        raise DataError(
            f"the labels of {title} are decimals, which lose their spelling: write {column!r} as "
            "strings"
        )


def renumbered(
    labels: Labels, found: tuple[str, ...], names: tuple[str, ...] | None, title: str
) -> tuple[Labels, tuple[str, ...]]:
    """Labels that index `names`, where given, and those; else labels and names as they are."""
    if names is None or names == found:
        return labels, found
    used = [found[label] for label in np.unique(labels)]
    if unknown := [name for name in used if name not in names]:
        raise DataError(f"{title} has classes that are not among the labels: {listed(unknown)}")
    place = {name: number for number, name in enumerate(names)}
    return np.array([place.get(name, -1) for name in found])[labels], names
