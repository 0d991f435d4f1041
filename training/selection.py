"""The rows that choose a run's best epoch."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from training.data.rows import Index
from training.data.sources import Inputs, LabelledRows, Source
from training.feed import HELD_BYTES

BATCH = 250


class Selection:
    """Rows `index` of the training split; `held` has them ready, if they fit in memory."""

    def __init__(self, source: Source, index: Index) -> None:
        self.source, self.index = source, index
        self.held: LabelledRows | None = None
        if len(index) * source.row_bytes <= HELD_BYTES:
            self.held = source.take(index)

    def accuracy(self, logits_of: Callable[[Inputs], list[Tensor]]) -> list[float]:
        """The share of right answers per exit, by a function from inputs to logits."""
        num_rows, correct = 0, torch.zeros((), dtype=torch.int64)
        for inputs, labels in self.batches():
            num_rows += len(labels)
            correct = correct + torch.stack(
                [(z.argmax(1).cpu() == labels).sum() for z in logits_of(inputs)]
            )
        return (correct / num_rows).tolist()

    def batches(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Rows as segment 1 takes them, and labels."""
        if self.held is not None:
            for start in range(0, len(self.held), BATCH):
                rows = slice(start, start + BATCH)
                yield [x[rows] for x in self.held.inputs], self.held.labels[rows]
            return
        for index, inputs in self.source.inputs_of(self.index):
            yield inputs, self.source.labels[torch.from_numpy(index)]
