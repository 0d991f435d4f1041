"""Batches of training images: from memory where they fit, else decoded by worker processes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from models.nets.multi_exit import Features
from training.augment import (
    PARTNER_OFFSET,
    channel_statistics,
    cut_out,
    flipped,
    mixed,
    normalised,
    shifted,
)
from training.config import TrainConfig
from training.data.cuts import Cut
from training.data.decoding import Batch, Decoded, Decoder, decoded
from training.data.errors import DataError, listed
from training.data.numbers import NumberSource
from training.data.source import ImageSource, refusal
from training.data.sources import Source
from training.data.texts import TextSource, similar_lengths
from training.distributed import World
from training.fronts import front_of, statistics
from training.losses import UNLABELLED
from training.run_data import RunData

HELD_BYTES = 2**30
"""Decoded images are kept in memory up to this size; CIFAR takes 150 MB."""

STATISTICS_ROWS = 2000
"""Rows that stand for all in channel means, where images are not held."""

OPTIONS = {
    "image": ("random_resized_crop", "cutout", "mixing", "image_size", "crop_share"),
    "text": ("tokenizer", "max_tokens", "example"),
}
"""By kind: options that are off unless they are given, and change rows of that kind alone."""

Log = Callable[[str], None]


class Part(NamedTuple):
    """What the network takes, images normalised, and the labels.

    Where images are mixed with others: the labels of the others, and the share that is their own.
    """

    inputs: Features
    labels: Tensor
    partner_labels: Tensor
    own_share: Tensor | None


class Feed(Protocol):
    """Gives each step its batch. Rows count from 0: the labelled ones, then the unlabelled ones.

    `mean` and `std` are those that `fronts` normalises by.
    """

    num_labelled: int
    num_unlabelled: int
    mean: Tensor
    std: Tensor

    def order(self) -> Tensor:
        """The rows of one epoch's batches, drawn anew."""
        ...

    def parts(self, order: Tensor, epoch: int, step: int) -> list[Part]:
        """This process's micro-batches of a step; `order` are the epoch's rows."""
        ...


def feed_of(data: RunData, config: TrainConfig, world: World, log: Log) -> Feed:
    """Holds the decoded rows if they fit; random resized crops need the whole files.

    Raises DataError where an option is for data of another kind.
    """
    for kind, options in OPTIONS.items():
        given = [option for option in options if getattr(config, option)]
        if given and kind != data.train.target.kind:
            raise DataError(f"{data.train.rows.title} has no {kind}s: leave out {listed(given)}")
    num_rows = len(data.splits.train) + len(data.splits.unlabelled)
    if not isinstance(data.train, ImageSource):
        return InMemory(data, data.train, config, world)
    if config.random_resized_crop or num_rows * data.train.row_bytes > HELD_BYTES:
        return Streamed(data, config, world, log)
    return Held(data, config, world)


class Held:
    """Every row decoded once; whole batches are augmented on the device."""

    def __init__(self, data: RunData, config: TrainConfig, world: World) -> None:
        self.config, self.world = config, world
        assert isinstance(data.train, ImageSource)
        index = np.append(data.splits.train, data.splits.unlabelled)
        self.images, kept = data.train.take_decodable(index)
        is_labelled = np.isin(kept, data.splits.train)
        self.images.labels[torch.from_numpy(~is_labelled)] = UNLABELLED
        self.num_labelled = int(is_labelled.sum())
        self.num_unlabelled = len(kept) - self.num_labelled
        self.mean, self.std = channel_statistics(self.images.images)

    def order(self) -> Tensor:
        return draw_order(self.num_labelled, self.num_unlabelled)

    def parts(self, order: Tensor, epoch: int, step: int) -> list[Part]:  # noqa: ARG002
        size, micro = self.config.batch_size, self.config.micro_batches
        images, labels = self.batch(order[step * size : (step + 1) * size])
        parts = parts_of(images, labels, micro, self.config)
        return parts[self.world.rank :: self.world.size]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """These rows augmented, and their labels. Every process draws alike for all of them."""
        device = self.world.device
        images = self.images.images[rows].to(device, non_blocking=True)
        images = normalised(images, self.mean.to(device), self.std.to(device))
        images = augmented(images, self.config)
        return images, self.images.labels[rows].to(device, non_blocking=True)


def augmented(images: Tensor, config: TrainConfig) -> Tensor:
    """The images changed one by one; random resized crops are made, and flipped, as they decode."""
    if config.flip and not config.random_resized_crop:
        images = flipped(images)
    if config.crop_padding:
        images = shifted(images, config.crop_padding)
    if config.cutout:
        images = cut_out(images, config.cutout)
    return images


def parts_of(images: Tensor, labels: Tensor, num_parts: int, config: TrainConfig) -> list[Part]:
    """The batch in equal parts, its images mixed with each other where the run does so."""
    own_share: Tensor | None = None
    if config.mixing is not None:
        images, own_share = mixed(images, config.mixing)
    chunks = [x.chunk(num_parts) for x in (images, labels, labels.roll(PARTNER_OFFSET))]
    parts = zip(*chunks, strict=True)
    return [Part([some], own, partners, own_share) for some, own, partners in parts]


class InMemory:
    """Texts or rows of numbers, which always fit; nothing is augmented here."""

    def __init__(self, data: RunData, source: Source, config: TrainConfig, world: World) -> None:
        self.config, self.world, self.source = config, world, source
        self.index = np.append(data.splits.train, data.splits.unlabelled)
        self.num_labelled = len(data.splits.train)
        self.num_unlabelled = len(data.splits.unlabelled)
        self.labels = source.labels[torch.from_numpy(self.index)]
        self.labels[self.num_labelled :] = UNLABELLED
        self.mean = self.std = torch.empty(0)
        if isinstance(source, NumberSource):
            some = source.rows.take(data.splits.train)
            self.mean, self.std = statistics(torch.from_numpy(some.table))

    def order(self) -> Tensor:
        order = draw_order(self.num_labelled, self.num_unlabelled)
        if isinstance(self.source, TextSource) and not self.num_unlabelled:
            lengths = self.source.lengths[self.index]
            return similar_lengths(order, lengths, self.config.batch_size)
        return order

    def parts(self, order: Tensor, epoch: int, step: int) -> list[Part]:  # noqa: ARG002
        """Micro-batches are padded one by one."""
        size, device = self.config.batch_size, self.world.device
        front = front_of(self.source.target, self.mean.to(device), self.std.to(device))
        chunks = order[step * size : (step + 1) * size].chunk(self.config.micro_batches)
        parts = []
        for rows in chunks[self.world.rank :: self.world.size]:
            taken = self.source.take(self.index[rows.numpy()]).inputs
            labels = self.labels[rows].to(device)
            inputs = front.prepared([x.to(device) for x in taken])
            parts.append(Part(inputs, labels, labels, None))
        return parts


def draw_order(num_labelled: int, num_unlabelled: int) -> Tensor:
    """The rows of one epoch's batches: the labelled ones shuffled, every second one unlabelled.

    Unlabelled rows follow the labelled ones in the data; they are drawn without replacement until
    none is left, and then again.
    """
    labelled = torch.randperm(num_labelled)
    if num_unlabelled == 0:
        return labelled
    rounds = -(-num_labelled // num_unlabelled)
    unlabelled = torch.cat([torch.randperm(num_unlabelled) for _ in range(rounds)])
    pairs = [labelled, num_labelled + unlabelled[:num_labelled]]
    return torch.stack(pairs, dim=1).flatten()


class Streamed:
    """Rows decoded anew in every epoch, ahead of their use, and only this process's."""

    def __init__(self, data: RunData, config: TrainConfig, world: World, log: Log) -> None:
        assert isinstance(data.train, ImageSource)
        self.config, self.world, self.log, self.source = config, world, log, data.train
        self.index = np.append(data.splits.train, data.splits.unlabelled)
        self.num_labelled = len(data.splits.train)
        self.num_unlabelled = len(data.splits.unlabelled)
        self.labels = data.train.labels[torch.from_numpy(self.index)]
        self.labels[self.num_labelled :] = UNLABELLED
        num_seen = min(STATISTICS_ROWS, self.num_labelled)
        seen = np.linspace(0, self.num_labelled - 1, num_seen).astype(int)
        self.mean, self.std = channel_statistics(data.train.take(data.splits.train[seen]).images)
        cut = Cut(flip=config.flip) if config.random_resized_crop else None
        self.decoder = Decoder(data.train.rows, data.train.target, cut)
        self.stream: Iterator[Decoded] = iter(())
        self.next: tuple[int, int] | None = None
        self.failures: set[str] = set()

    def order(self) -> Tensor:
        return draw_order(self.num_labelled, self.num_unlabelled)

    def parts(self, order: Tensor, epoch: int, step: int) -> list[Part]:
        if self.next != (epoch, step):
            num_steps = len(order) // self.config.batch_size
            steps = [self.batch_of(order, epoch, k) for k in range(step, num_steps)]
            self.stream = decoded(self.decoder, steps)
        self.next = epoch, step + 1
        places = self.places(order, step)
        images, labels = self.filled(next(self.stream), self.labels[places])
        device = self.world.device
        images = normalised(images.to(device), self.mean.to(device), self.std.to(device))
        num_parts = self.config.micro_batches // self.world.size
        images = augmented(images, self.config)
        return parts_of(images, labels.to(device), num_parts, self.config)

    def places(self, order: Tensor, step: int) -> Tensor:
        """This process's rows of one step."""
        size = self.config.batch_size
        parts = order[step * size : (step + 1) * size].chunk(self.config.micro_batches)
        return torch.cat(parts[self.world.rank :: self.world.size])

    def batch_of(self, order: Tensor, epoch: int, step: int) -> Batch:
        """Random cuts depend on seed, epoch and row alone: a resumed run draws the same."""
        rows = self.index[self.places(order, step).numpy()]
        first = (self.config.seed * 1_000_003 + epoch) << 32
        return Batch(rows, rows.astype(np.uint64) + np.uint64(first % 2**63))

    def filled(self, batch: Decoded, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Skipped images are replaced by others of their batch, labels too."""
        if not batch.failures:
            return batch.images, labels
        if self.config.undecodable == "refuse" or not len(batch.kept):
            raise refusal(batch.failures, len(labels))
        if new := set(batch.failures) - self.failures:
            self.failures |= new
            self.log(f"skipped images that cannot be decoded: {listed(sorted(new))}")
        sources = np.arange(len(labels)) % len(batch.kept)
        sources[batch.kept] = np.arange(len(batch.kept))
        return batch.images[torch.from_numpy(sources)], labels[
            torch.from_numpy(batch.kept[sources])
        ]
