"""A split: its labels are in memory, its images are decoded on demand."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.bundle.image_input import ImageInput
from training.data.decoding import Decoder, decoded, in_order
from training.data.errors import DataError, listed
from training.data.layout import open_rows
from training.data.rows import DIGIT_SIZE, Index, Rows, SplitName
from training.data.sources import BaseSource, Inputs
from training.data.survey import choose_input, survey

BATCH = 100
Undecodables = Literal["refuse", "skip"]


@dataclass(frozen=True)
class LabelledImages:
    """uint8 images (rows, height, width, channels), int64 labels (rows,), and the labels' names."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    @property
    def inputs(self) -> Inputs:
        return [self.images]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageSource(BaseSource[Rows, ImageInput]):
    """A split and what its images are fitted to.

    Images that cannot be decoded are refused, all of them named together, or skipped.
    """

    undecodable: Undecodables = "refuse"

    @property
    def row_bytes(self) -> int:
        return prod(self.shape)

    def take(self, index: Index) -> LabelledImages:
        """Decodes these rows into memory, in their order."""
        return self.take_decodable(index)[0]

    def take_decodable(self, index: Index) -> tuple[LabelledImages, Index]:
        """The same, and which rows they are: all of `index`, but for those that were skipped."""
        images = torch.empty((len(index), *self.shape), dtype=torch.uint8)
        taken, place = [index[:0]], 0
        for rows, part in self.batches(index):
            images[place : place + len(part)] = part
            place += len(part)
            taken.append(rows)
        found = np.concatenate(taken)
        labels = self.labels[torch.from_numpy(found)]
        return LabelledImages(images[:place], labels, self.names), found

    def batches(self, index: Index, size: int = BATCH) -> Iterator[tuple[Index, Tensor]]:
        """Decodes these rows batch by batch, in their order, ahead of their use.

        Gives the rows of each batch and their images.
        """
        failures: list[str] = []
        batches = in_order(index, size)
        parts = decoded(Decoder(self.rows, self.target), batches)
        for batch, part in zip(batches, parts, strict=True):
            failures += part.failures
            if not failures or self.undecodable == "skip":
                yield batch.rows[part.kept], part.images
        if failures and self.undecodable == "refuse":
            raise refusal(failures, len(index))

    def inputs_of(self, index: Index) -> Iterator[tuple[Index, Inputs]]:
        return ((rows, [images]) for rows, images in self.batches(index))


def refusal(failures: list[str], num_rows: int) -> DataError:
    return DataError(
        f"{len(failures)} of {num_rows} images cannot be decoded: {listed(failures)}; leave them "
        "out with --set undecodable=skip (train) or --skip-undecodable (export, evaluate), or "
        "remove them before training"
    )


def open_images(source: str, split: SplitName, image_size: int | None = None) -> ImageSource:
    """Opens "digits", a parquet file, a directory of parquet files or image folders, or a hub name.

    Images become squares of `image_size`, by their short side and centre; without one all must
    have one size.
    """
    if source == "digits" and image_size not in (None, DIGIT_SIZE):
        raise DataError(f"digits are {DIGIT_SIZE} pixels wide and are not resized")
    rows = open_rows(source, split)
    target = choose_input(survey(rows), rows.title, image_size, "crop", None, (255, 255, 255))
    return ImageSource(rows, target)


def load_images(source: str, split: SplitName, image_size: int | None = None) -> LabelledImages:
    """Every image of `open_images`, decoded."""
    images = open_images(source, split, image_size)
    return images.take(np.arange(len(images.labels)))
