"""Texts as token numbers, padded batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.bundle.text import TextReader, Tokens
from models.bundle.text_input import TextInput
from training.data.errors import DataError, listed
from training.data.records import Records
from training.data.rows import Index
from training.data.sources import BaseSource, Inputs, Taken, shape_of

BATCH = 100
POOL = 20
"""Batches of similar lengths are cut from so many batches at a time."""


@dataclass(frozen=True)
class TextSource(BaseSource[Records, TextInput]):
    """A split and the tokenizer that its texts go through."""

    tokenizer: str

    @cached_property
    def reader(self) -> TextReader:
        return TextReader(self.tokenizer.encode(), self.target)

    @cached_property
    def tokens(self) -> list[Tokens]:
        """Those of every text; raises DataError for texts that have none."""
        try:
            return self.reader.read(self.rows.texts)
        except ValueError:
            empty = [row for row, text in enumerate(self.rows.texts) if not self.has_tokens(text)]
            raise DataError(
                f"{len(empty)} texts of {self.rows.title} have no token: rows "
                f"{listed(map(str, empty))}"
            ) from None

    def has_tokens(self, text: str) -> bool:
        try:
            return bool(self.reader.read([text]))
        except ValueError:
            return False

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every text."""
        return np.array([len(text.ids) for text in self.tokens])

    @cached_property
    def buckets(self) -> NDArray[np.int64]:
        """The length bucket of every text."""
        return np.array([text.length for text in self.tokens])

    @property
    def shape(self) -> list[int]:
        return shape_of(self.target, self.tokenizer)

    @property
    def row_bytes(self) -> int:
        return 8 * len(self.target.inputs) * self.target.length_buckets[-1]

    def take(self, index: Index) -> Taken:
        """These texts, padded to the bucket that holds the longest of them."""
        inputs = self.padded(index, int(self.buckets[index].max(initial=0)))
        return Taken(inputs, self.labels[torch.from_numpy(index)])

    def padded(self, index: Index, length: int) -> Inputs:
        texts = [self.tokens[row] for row in index.tolist()]
        return [torch.from_numpy(array) for array in self.reader.arrays(texts, length)]

    def inputs_of(self, index: Index) -> Iterator[tuple[Index, Inputs]]:
        """Batches of one length bucket each, shortest first."""
        buckets = self.buckets[index]
        for bucket in np.unique(buckets).tolist():
            rows = index[buckets == bucket]
            for start in range(0, len(rows), BATCH):
                some = rows[start : start + BATCH]
                yield some, self.padded(some, bucket)


def similar_lengths(order: Tensor, lengths: NDArray[np.int64], size: int) -> Tensor:
    """The same rows in batches of similar lengths, the batches in random order.

    Rows are sorted within stretches of `POOL` batches: a batch pays for its longest text.
    """
    batches: list[Tensor] = []
    rest = order[len(order) // size * size :]
    for pool in torch.split(order[: len(order) - len(rest)], POOL * size):
        by_length = pool[torch.from_numpy(np.argsort(lengths[pool.numpy()], kind="stable"))]
        batches += torch.split(by_length, size)
    shuffled = [batches[k] for k in torch.randperm(len(batches)).tolist()]
    return torch.cat([*shuffled, rest])
