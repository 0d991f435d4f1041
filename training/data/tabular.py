"""The splits of a table: CSV, JSON lines or parquet files, or a hub data set."""

import csv
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable
from pyarrow.csv import ConvertOptions

from training.data.errors import DataError, reason
from training.data.folders import SPLIT_NAMES
from training.data.layout import hub_splits
from training.data.tables import load_parquet, visible

SEPARATED: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
"""How pandas reads fields: as they are, the first one too where the header has fewer."""
SUFFIXES: dict[str, dict[str, Any]] = {
    "csv": {"skipinitialspace": True},  # "a, b" has columns a and b
    "tsv": {"sep": "\t", "quoting": csv.QUOTE_NONE},  # a quote is a character as any other
}
"""What each suffix adds."""
FORMATS = ("parquet", *SUFFIXES, "jsonl", "ndjson", "json")
UNREADABLE = (OSError, ValueError, pa.ArrowException, DatasetsError, pd.errors.ParserWarning)
MISSING = ConvertOptions().null_values
"""What stands for a missing number: an empty field, "NA", "nan", "null" and the like."""
VALIDATION = tuple(name for name in SPLIT_NAMES["test"] if name != "test")
WHOLE = "whole"
"""What the only table of a source without splits goes by."""


@dataclass(frozen=True)
class Tables:
    """The splits that a source has, by their names; none is read before it is asked for.

    Each is read by a function of the column of labels, which may not be known yet.
    """

    source: str
    splits: Mapping[str, Callable[[str | None], Dataset]]

    def read(self, name: str, label: str | None = None) -> Dataset:
        if len(table := self.splits[name](label)) == 0:
            raise DataError(f"{self.title(name)} has no rows")
        return table

    def title(self, name: str) -> str:
        return f"{self.source!r}" if name == WHOLE else f"the {name} split of {self.source!r}"

    def first(self, names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in self.splits), None)

    @property
    def train(self) -> str:
        return self.required("train")

    @property
    def test(self) -> str:
        return self.required("test")

    @property
    def validation(self) -> str | None:
        """The split that may calibrate: one beside the training and the test split."""
        if not {"train", "test"} <= self.splits.keys():
            return None
        return self.first(VALIDATION)

    def required(self, split: str) -> str:
        if WHOLE in self.splits:
            return WHOLE
        names = SPLIT_NAMES["test"] if split == "test" else ("train",)
        found = self.first(names)
        if found is None:
            raise DataError(
                f"cannot load the {split} split of {self.source!r}: it has "
                f"{', '.join(self.splits) or 'none'}, not {' or '.join(names)}"
            )
        return found


def tables_of(source: str) -> Tables | None:
    """The tables of a file, a directory or a hub name; None where they are image folders."""
    path = Path(source).expanduser()
    if path.is_file():
        return Tables(source, {WHOLE: partial(load, [path], f"{source!r}")})
    if not path.is_dir():
        found = hub_splits(source, f"the train split of {source!r}")
        return Tables(source, {str(name): partial(as_it_is, found[name]) for name in found})
    splits = {}
    for name in ("train", *SPLIT_NAMES["test"]):
        if files := table_files(path, name):
            splits[name] = partial(load, files, f"the {name} split of {source!r}")
    return Tables(source, splits) if splits else None


def table_files(directory: Path, name: str) -> list[Path]:
    """A split's files: DIR/NAME/*.SUFFIX, or NAME*.SUFFIX in DIR or DIR/data, all of one format."""
    pattern = re.compile(rf"{name}([-_.].*)?", re.IGNORECASE)
    for place, is_named in (
        (directory, True),
        (directory / "data", True),
        (directory / name, False),
    ):
        for suffix in FORMATS:
            files = [
                path
                for path in visible(place, suffix)
                if not is_named or pattern.fullmatch(path.stem)
            ]
            if files:
                return files
    return []


def as_it_is(table: Dataset, _label: str | None) -> Dataset:
    return table


def load(files: list[Path], title: str, label: str | None = None) -> Dataset:
    """All rows. Of CSV and TSV, `label` is the column whose cells are read as labels."""
    suffix = files[0].suffix.removeprefix(".").lower()
    if suffix not in FORMATS:
        raise DataError(f"{title} is none of {', '.join(FORMATS)}")
    if suffix == "parquet":
        return load_parquet(files, title)
    try:
        if suffix in SUFFIXES:
            return Dataset(InMemoryTable(separated(files, SUFFIXES[suffix], label)))
        return load_dataset("json", data_files=[str(file) for file in files], split="train")
    except UNREADABLE as error:
        raise DataError(f"cannot load {title}: {reason(error)}") from error


def separated(files: list[Path], options: dict[str, Any], label: str | None) -> pa.Table:
    """The rows of CSV or TSV files. A column is of numbers if all its cells are, or are missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        frames = [pd.read_csv(file, **SEPARATED, **options) for file in files]
    tables = [pa.Table.from_pandas(frame, preserve_index=False) for frame in frames]
    table = pa.concat_tables(tables, promote_options="default")
    return pa.table(
        {n: (labels if n == label else typed)(table.column(n)) for n in table.column_names}
    )


def typed(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings as numbers, null where one is missing; as they are where one is something else."""
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        try:
            return known(cells).cast(kind)
        except pa.ArrowInvalid:
            continue
    return cells


def labels(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same, but numbers that would be spelled otherwise stay strings: 007, 250.10.

    Strings lose the space around them, which would make two labels of one.
    """
    values, spelled = typed(cells), known(cells)
    if pa.types.is_floating(values.type):
        return spelled
    if pa.types.is_integer(values.type):
        is_same = pc.all(pc.equal(values.cast(spelled.type), spelled))
        return values if is_same.as_py() else spelled
    return pc.utf8_trim_whitespace(values) if values.type == cells.type else values


def known(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings without the space around them, null where one stands for a missing number."""
    trimmed = pc.utf8_trim_whitespace(cells)
    is_missing = pc.is_in(trimmed, pa.array(MISSING, trimmed.type))
    return pc.if_else(is_missing, pa.scalar(None, trimmed.type), trimmed)
