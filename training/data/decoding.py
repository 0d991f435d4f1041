"""Rows decoded batch by batch, by worker processes, in the order that is asked for."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.bundle.image import fit_image
from models.bundle.image_input import ImageInput
from training.data.cuts import Cut
from training.data.rows import ArrayRows, Index, Rows
from training.data.survey import ERRORS, complaint

WORTH_WORKERS = 2000
"""Rows; to start worker processes takes longer than to decode fewer."""


@dataclass(frozen=True)
class Decoded:
    """uint8 images (rows, height, width, channels) of the rows that could be decoded.

    `kept` are their places in the batch; `failures` say which images could not be decoded, and why.
    """

    images: Tensor
    kept: Index
    failures: list[str]


@dataclass(frozen=True)
class Batch:
    """Rows to decode together. Random cuts are drawn from `seeds`, one for each row."""

    rows: Index
    seeds: NDArray[np.uint64] | None = None


class Decoder(Dataset[Decoded]):
    """Decodes one batch: fits every image to `target`, by a random cut where there is one."""

    def __init__(self, rows: Rows, target: ImageInput, cut: Cut | None = None) -> None:
        self.rows, self.target, self.cut = rows, target, cut

    def __getitem__(self, batch: Batch) -> Decoded:
        shape = self.target.height, self.target.width, self.target.channels
        images = torch.empty((len(batch.rows), *shape), dtype=torch.uint8)
        pixels = images.numpy()
        kept: list[int] = []
        failures: list[str] = []
        for place, row in enumerate(batch.rows.tolist()):
            try:
                pixels[len(kept)] = self.decode(row, batch, place)
                kept.append(place)
            except ERRORS as error:
                failures.append(complaint(self.rows, row, error))
        return Decoded(images[: len(kept)], np.array(kept, dtype=np.int64), failures)

    def decode(self, row: int, batch: Batch, place: int) -> NDArray[np.uint8]:
        with self.rows.open(row) as image:
            if self.cut is None or batch.seeds is None:
                return fit_image(image, self.target)
            return self.cut(image, self.target, np.random.default_rng(int(batch.seeds[place])))


def decoded(decoder: Decoder, batches: Sequence[Batch]) -> Iterator[Decoded]:
    """Every batch, in order; decoded ahead by as many processes as there are cores."""
    num_rows = sum(len(batch.rows) for batch in batches)
    if num_rows < WORTH_WORKERS or isinstance(decoder.rows, ArrayRows):
        yield from (decoder[batch] for batch in batches)
        return
    yield from DataLoader(
        decoder,
        batch_size=None,
        sampler=batches,
        num_workers=len(os.sched_getaffinity(0)),
        worker_init_fn=ignore_interrupts,
        generator=torch.Generator(),  # or it would draw from the run's random state
        collate_fn=None,
    )


def ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches every process: the run ends its workers after its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def in_order(rows: Index, size: int) -> list[Batch]:
    return [Batch(rows[start : start + size]) for start in range(0, len(rows), size)]
