"""Rows of texts or of numbers: one split, in memory, with its labels."""

from dataclasses import dataclass
from hashlib import sha256
from math import prod

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from training.data.columns import Columns
from training.data.errors import DataError, listed
from training.data.rows import Index, Labels, SplitName, part_of_file
from training.data.tables import numbered, refuse_missing, renumbered

Names = tuple[str, ...]
Values = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Records:
    """A split's rows; labels index `names`.

    They have `texts`, or `values`: for each column of numbers (rows, numbers) or (rows,). The last
    `num_apart` rows come from a validation split: they are never trained on.
    """

    title: str
    names: Names
    labels: Labels
    texts: tuple[str, ...] = ()
    values: Values | None = None
    num_apart: int = 0

    def identities(self) -> NDArray[np.generic]:
        """Eight bytes of a hash of each row."""
        if self.values is None:
            rows = [text.encode(errors="surrogatepass") for text in self.texts]
        else:
            rows = [row.tobytes() for row in self.table]
        return np.array([sha256(row).digest()[:8] for row in rows])

    @property
    def table(self) -> NDArray[np.float32]:
        """All numbers of all rows, (rows, numbers), column after column."""
        assert self.values is not None
        return np.concatenate(
            [v.reshape(len(v), prod(v.shape[1:])) for v in self.values.values()], axis=1
        )

    def take(self, index: Index) -> "Records":
        values = self.values and {name: value[index] for name, value in self.values.items()}
        texts = tuple(self.texts[row] for row in index.tolist()) if self.texts else ()
        return Records(self.title, self.names, self.labels[index], texts, values)

    def part_of_file(self, split: SplitName) -> "Records":
        """A fixed fifth of every class for testing, or the rest for training."""
        return self.take(part_of_file(self.labels, self.names, self.title, split))

    def followed_by(self, other: "Records") -> "Records":
        """These rows and a validation split's."""
        values = None
        if self.values is not None and other.values is not None:
            values = {n: np.concatenate([v, other.values[n]]) for n, v in self.values.items()}
        labels = np.append(self.labels, other.labels)
        texts = self.texts + other.texts
        return Records(self.title, self.names, labels, texts, values, len(other.labels))


def records(table: Dataset, columns: Columns, title: str, names: Names | None) -> Records:
    """Every row of a table; labels are numbered as in `names`, where given."""
    missing = [name for name in (*columns.inputs, columns.label) if name not in table.features]
    if missing:
        raise DataError(f"{title} has no column {listed(map(repr, missing))}")
    labels, names = renumbered(*numbered(table, columns.label, title), names, title)
    if columns.kind == "text":
        texts = texts_of(table, columns.inputs[0], title)
        return Records(title, names, labels, texts)
    values = {name: values_of(table, name, title) for name in columns.inputs}
    return Records(title, names, labels, values=values)


def texts_of(table: Dataset, column: str, title: str) -> tuple[str, ...]:
    refuse_missing(table, column, title)
    return tuple(table.data.column(column).to_pylist())


def values_of(table: Dataset, column: str, title: str) -> NDArray[np.float32]:
    """(rows,) or (rows, numbers), float32; raises DataError where one is missing or infinite."""
    refuse_missing(table, column, title)
    try:
        values = np.array(table.data.column(column).to_pylist(), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"column {column!r} of {title} has no numbers, or lists of several lengths"
        ) from error
    rows = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1)).tolist()
    if rows:
        raise DataError(
            f"{len(rows)} rows of {title} have no finite number in {column!r}: rows "
            f"{listed(map(str, rows))}"
        )
    return values
