"""The rows that choose a run's best epoch."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from training.data import ImageSource, LabelledImages
from training.data.rows import Index
from training.feed import HELD_BYTES

BATCH = 250


class Selection:
    """Rows `index` of the training images; `held` has them decoded, if they fit in memory."""

    def __init__(self, source: ImageSource, index: Index) -> None:
        self.source, self.index = source, index
        self.held: LabelledImages | None = None
        if len(index) * source.row_bytes <= HELD_BYTES:
            self.held = source.take(index)

    def accuracy(self, logits_of: Callable[[Tensor], list[Tensor]]) -> list[float]:
        """The share of right answers per exit, by a function from uint8 images to logits."""
        num_rows, correct = 0, torch.zeros((), dtype=torch.int64)
        for images, labels in self.batches():
            num_rows += len(labels)
            correct = correct + torch.stack(
                [(z.argmax(1).cpu() == labels).sum() for z in logits_of(images)]
            )
        return (correct / num_rows).tolist()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 images and labels."""
        if self.held is not None:
            for start in range(0, len(self.held), BATCH):
                rows = slice(start, start + BATCH)
                yield self.held.images[rows], self.held.labels[rows]
            return
        for index, images in self.source.batches(self.index, BATCH):
            yield images, self.source.labels[torch.from_numpy(index)]
