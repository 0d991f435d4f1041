"""Which rows train, select, calibrate and lend their images: drawn for every class by the seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from training.config import TrainConfig
from training.data.errors import DataError, listed
from training.data.rows import Index


@dataclass(frozen=True)
class Splits:
    """Disjoint row indices into one training set; `unlabelled` rows lend their images only."""

    train: Index
    selection: Index
    calibration: Index
    unlabelled: Index


@dataclass(frozen=True)
class Quota:
    """How many rows of one class select, calibrate and are used in all."""

    selection: int
    calibration: int
    used: int

    @classmethod
    def of(cls, num_rows: int, config: TrainConfig) -> "Quota":
        """Shares are of the class's rows; the selection share is of the images it is part of."""
        calibration = share_or_count(
            config.calibration_share, num_rows, config.calibration_per_class
        )
        images = num_rows - calibration
        if config.images_per_class is not None or config.images_share is not None:
            images = share_or_count(config.images_share, num_rows, config.images_per_class or 0)
        selection = share_or_count(config.selection_share, images, config.selection_per_class)
        return cls(selection, calibration, images + calibration)

    def fits(self, num_rows: int) -> bool:
        """Whether there are so many rows, and one is left to train on."""
        return self.selection + self.calibration < self.used <= num_rows


def share_or_count(share: float | None, num_rows: int, count: int) -> int:
    """At least one row of a share."""
    return count if share is None else max(1, round(share * num_rows))


def split_rows(
    labels: Tensor, config: TrainConfig, names: Sequence[str] | None = None, num_apart: int = 0
) -> Splits:
    """Draws the rows of every class for each use, as many as `config` asks; equal seeds draw alike.

    The last `num_apart` rows are those of a validation split: where there are any, they alone
    select and calibrate, as many as there are up to what `config` asks. Raises DataError naming
    every class with too few rows; only unlabelled ones may run short.
    """
    given = labels.numpy()
    if num_apart:
        return beside_validation(given, config, names, num_apart)
    num_classes = len(names) if names is not None else int(given.max()) + 1
    sizes = np.bincount(given, minlength=num_classes).tolist()
    quotas = [Quota.of(size, config) for size in sizes]
    refuse_small_classes(sizes, quotas, config, names or [str(k) for k in range(num_classes)])
    generator = np.random.default_rng(config.seed)
    by_class = np.split(np.argsort(given, kind="stable"), np.cumsum(sizes)[:-1])
    parts: list[list[Index]] = []
    for rows, quota in zip(by_class, quotas, strict=True):
        cuts = [quota.selection, quota.selection + quota.calibration, quota.used]
        selection, calibration, train, spare = np.split(generator.permutation(rows), cuts)
        parts.append([train, selection, calibration, spare[: config.unlabelled_per_class]])
    return Splits(*(np.sort(np.concatenate(rows)) for rows in zip(*parts, strict=True)))


def beside_validation(
    labels: Index, config: TrainConfig, names: Sequence[str] | None, num_apart: int
) -> Splits:
    """Splits the training rows, and takes from the validation rows what is kept apart."""
    nothing = {
        "selection_share": None,
        "calibration_share": None,
        "selection_per_class": 0,
        "calibration_per_class": 0,
    }
    first = len(labels) - num_apart
    trained = split_rows(torch.from_numpy(labels[:first]), config.model_copy(update=nothing), names)
    generator = np.random.default_rng(config.seed)
    selection, calibration = [], []
    for label in np.unique(labels[first:]):
        rows = generator.permutation(first + np.flatnonzero(labels[first:] == label))
        num_selecting = share_or_count(
            config.selection_share, len(rows), config.selection_per_class
        )
        num_calibrating = share_or_count(
            config.calibration_share, len(rows), config.calibration_per_class
        )
        selection.append(rows[:num_selecting])
        calibration.append(rows[num_selecting:][:num_calibrating])
    return replace(
        trained,
        selection=np.sort(np.concatenate(selection)),
        calibration=np.sort(np.concatenate(calibration)),
    )


def refuse_small_classes(
    sizes: list[int], quotas: list[Quota], config: TrainConfig, names: Sequence[str]
) -> None:
    """Names all of them at once, and says what would fit."""
    small = [k for k, quota in enumerate(quotas) if not quota.fits(sizes[k])]
    if len(names) < 2:
        raise DataError(f"the only class is {listed(map(repr, names))}; two are needed")
    if not small:
        return
    quota = quotas[small[0]]
    num_trained = max(1, quota.used - quota.selection - quota.calibration)
    which = listed(f"{names[k]!r} has {sizes[k]}" for k in sorted(small, key=lambda k: sizes[k]))
    raise DataError(
        f"{len(small)} of {len(names)} classes have too few rows for {quota.selection} to select "
        f"with, {quota.calibration} to calibrate with and {num_trained} to train on: {which}; "
        f"{what_fits(min(sizes), config)}"
    )


def what_fits(least: int, config: TrainConfig) -> str:
    """Settings with which the smallest class can be split."""
    if least < 3:
        return "leave out classes of fewer than 3 rows"
    shares = ["selection_share=0.1", "calibration_share=0.1"]
    if config.images_per_class is not None or config.images_share is not None:
        shares.append(f"images_per_class={least - max(1, round(0.1 * least))}")
    if config.images_share is not None:
        shares[-1] = "images_share=0.5"
    return f"every class fits with {' '.join('--set ' + share for share in shares)}"
