"""Rows of numbers: a tensor for each column, or one for all where they are many."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch

from models.bundle.tensor_input import RowTensor, TensorInput
from training.data.errors import DataError, listed
from training.data.records import Records, Values
from training.data.rows import Index
from training.data.sources import BaseSource, Inputs, Taken

BATCH = 1000
MAX_NAMED = 32
"""Columns up to which each is a tensor of its own: a request then names its numbers."""
ALL = "numbers"


@dataclass(frozen=True)
class NumberSource(BaseSource[Records, TensorInput]):
    """A split of rows of numbers; raises DataError where `target` is of others."""

    def __post_init__(self) -> None:
        assert self.rows.values is not None
        found = target_of(self.rows.values)
        if found != self.target:
            raise DataError(
                f"{self.rows.title} has other numbers than the network takes: {shown(found)}; "
                f"not {shown(self.target)}"
            )

    @property
    def row_bytes(self) -> int:
        return 4 * sum(self.shape)

    def take(self, index: Index) -> Taken:
        taken = self.rows.take(index)
        sizes = [prod(part.shape) for part in self.target.tensors]
        parts = torch.split(torch.from_numpy(taken.table), sizes, dim=1)
        inputs = [
            x.reshape(len(x), *part.shape)
            for x, part in zip(parts, self.target.tensors, strict=True)
        ]
        return Taken(inputs, torch.from_numpy(taken.labels))

    def inputs_of(self, index: Index) -> Iterator[tuple[Index, Inputs]]:
        for start in range(0, len(index), BATCH):
            rows = index[start : start + BATCH]
            yield rows, self.take(rows).inputs


def target_of(values: Values) -> TensorInput:
    """What a network for these columns takes: numbers, or lists of them."""
    shapes = {name: value.shape[1:] for name, value in values.items()}
    if len(shapes) > MAX_NAMED:
        shapes = {ALL: (sum(map(prod, shapes.values())),)}
    tensors = (RowTensor(name=n, dtype="float32", shape=shape) for n, shape in shapes.items())
    return TensorInput(tensors=tuple(tensors))


def columns_of(target: TensorInput) -> tuple[str, ...]:
    """The columns that its tensors are named for; none where many became one tensor."""
    names = tuple(tensor.name for tensor in target.tensors)
    is_one_of_many = names == (ALL,) and prod(target.tensors[0].shape) > MAX_NAMED
    return () if is_one_of_many else names


def shown(target: TensorInput) -> str:
    return listed(f"{tensor.name!r} of shape {list(tensor.shape)}" for tensor in target.tensors)
