"""Rows of numbers, from JSON or as arrays, to what a model takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from models.bundle.tensor_input import RowTensor
from server.engine.job import Given
from server.errors import BadParameter
from server.http.numbers import Array, array_of_json, check_span

SMALL_VALUES = 4096
"""Of a request's rows. So many are checked in half a millisecond."""


@dataclass(frozen=True, slots=True)
class Arrays:
    """Rows that are decoded already: arrays with the rows as their first axis, one per tensor."""

    arrays: list[Array]
    length = 0

    @property
    def num_rows(self) -> int:
        return len(self.arrays[0])

    def decode_here(self) -> list[Given]:
        return [Given(self.arrays, index) for index in range(self.num_rows)]

    def parts(self) -> list[Callable[[], list[Given]]]:
        return [self.decode_here]

    def sources(self) -> list[bytes]:
        rows = zip(*self.arrays, strict=True)
        return [b"array:" + b"".join(part.tobytes() for part in row) for row in rows]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a JSON request for a model that takes `tensors`.

    A row has a value for each tensor by its name; where there is one tensor, the value alone will
    do.
    """

    contents: Sequence[Any]
    tensors: Sequence[RowTensor]
    length = 0

    @property
    def num_rows(self) -> int:
        return len(self.contents)

    def decode_here(self) -> list[Given] | None:
        """The rows where they are small, or None: a thread is to decode what takes longer."""
        num_values = sum(prod(tensor.shape) for tensor in self.tensors)
        return self.decode() if self.num_rows * num_values <= SMALL_VALUES else None

    def parts(self) -> list[Callable[[], list[Given]]]:
        return [self.decode]

    def decode(self) -> list[Given]:
        """Raises BadParameter, which names row and tensor."""
        rows = [self._row(row, f"rows.{index}") for index, row in enumerate(self.contents)]
        arrays = [np.stack(parts) for parts in zip(*rows, strict=True)]
        return Arrays(arrays).decode_here()

    def sources(self) -> list[bytes]:
        return [b"json:" + repr(row).encode() for row in self.contents]

    def _row(self, row: object, field: str) -> list[Array]:
        named = [(tensor.name, tensor) for tensor in self.tensors]
        names = [name for name, _ in named]
        if not isinstance(row, dict):
            if len(names) > 1:
                raise BadParameter(field, f"must be an object with {', '.join(names)}")
            return [part_of(row, self.tensors[0], field)]
        if unknown := row.keys() - set(names):
            raise BadParameter(f"{field}.{min(unknown)}", f"is none of {', '.join(names)}")
        if missing := set(names) - row.keys():
            raise BadParameter(f"{field}.{min(missing)}", "is missing")
        return [part_of(row[name], each, f"{field}.{name}") for name, each in named]


def part_of(value: object, tensor: RowTensor, field: str) -> Array:
    """A row's part for one tensor; raises BadParameter."""
    array = array_of_json(value, tensor.shape, tensor.dtype, field)
    check_span(array, tensor.span, field)
    return array
