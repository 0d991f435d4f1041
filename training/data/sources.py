"""What every kind of data offers to training, export and evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Generic, Protocol, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.bundle.manifest import AnyInput
from models.bundle.tensor_input import TensorInput
from models.bundle.text_input import TextInput
from training.data.rows import Index, NamedRows

Inputs = list[Tensor]
"""What segment 1 of a bundle takes, as one tensor or several."""


def shape_of(target: AnyInput, tokenizer: str = "") -> list[int]:
    """What a network is built for: see `models.nets.presets.build`."""
    if isinstance(target, TextInput):
        return [vocabulary_of(tokenizer), target.length_buckets[-1]]
    if isinstance(target, TensorInput):
        return [sum(prod(part.shape) for part in target.tensors)]
    return [target.height, target.width, target.channels]


def vocabulary_of(tokenizer: str) -> int:
    """The numbers of a tokenizer's tokens are below this."""
    tokens: dict[str, int] = Tokenizer.from_str(tokenizer).get_vocab(with_added_tokens=True)
    return max(tokens.values()) + 1


class LabelledRows(Protocol):
    """Rows as segment 1 takes them, and their int64 labels."""

    @property
    def inputs(self) -> Inputs: ...
    @property
    def labels(self) -> Tensor: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Taken:
    """Rows as segment 1 takes them, (rows, ...) each, and int64 labels, (rows,)."""

    inputs: Inputs
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


R = TypeVar("R", bound=NamedRows)
T = TypeVar("T", bound=AnyInput)


@dataclass(frozen=True)
class BaseSource(Generic[R, T]):
    """A split and what its rows are made ready for: what every kind of source has alike."""

    rows: R
    target: T

    @property
    def labels(self) -> Tensor:
        return torch.from_numpy(self.rows.labels)

    @property
    def names(self) -> tuple[str, ...]:
        return self.rows.names

    @property
    def shape(self) -> list[int]:
        return shape_of(self.target)


class Source(Protocol):
    """A split whose rows are made ready on demand. `shape` is what networks are built for."""

    @property
    def rows(self) -> NamedRows: ...
    @property
    def target(self) -> AnyInput: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def row_bytes(self) -> int: ...

    def take(self, index: Index) -> LabelledRows:
        """These rows, in their order."""
        ...

    def inputs_of(self, index: Index) -> Iterator[tuple[Index, Inputs]]:
        """These rows batch by batch, in any order: which they are, and what segment 1 takes."""
        ...
