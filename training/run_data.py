"""The data of one run: opened, split once, and compared when the run goes on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.bundle.manifest import Input
from training.checkpoint import CheckpointError
from training.config import TrainConfig
from training.data import fingerprint
from training.data.errors import DataError, listed
from training.data.fingerprint import Fingerprint
from training.data.layout import open_rows
from training.data.rows import DIGIT_SIZE, Rows
from training.data.source import ImageSource
from training.data.splits import Splits, split_rows
from training.data.survey import Survey, choose_input, survey

SPLITS = "splits.npz"


@dataclass(frozen=True)
class RunData:
    """Training and test rows, what their images are fitted to, and the training rows' uses."""

    train: ImageSource
    test: ImageSource
    splits: Splits
    fingerprint: Fingerprint
    notes: list[str]

    @property
    def image_shape(self) -> list[int]:
        return list(self.train.shape)

    def keep(self, run: Path) -> None:
        """Writes splits and fingerprint into the run's directory."""
        np.savez(run / SPLITS, **vars(self.splits))
        fingerprint.keep(self.fingerprint, run)


def open_data(config: TrainConfig, run: Path, *, is_new: bool) -> RunData:
    """Opens the data of a run, and splits them if the run is new.

    Raises DataError where the data are not those that the run was made with.
    """
    if config.data == "digits" and config.image_size not in (None, DIGIT_SIZE):
        raise DataError(f"digits are {DIGIT_SIZE} pixels wide and are not resized")
    train = open_rows(config.data, "train")
    test = open_rows(config.data, "test", train.names)
    found = Fingerprint.of(train, test)
    if is_new:
        splits = split_rows(torch.from_numpy(train.labels), config, train.names)
    else:
        splits = earlier_splits(run, found)
    seen, seen_test = survey(train), survey(test)
    target = input_of(config, train, seen)
    notes = [
        f"data: {train.title}: {seen}",
        f"data: {test.title}: {seen_test}",
        f"images become {target.width}x{target.height}x{target.channels}: {rule(target)}",
    ]
    refuse_unreadable([seen, seen_test], config)
    return RunData(
        train=ImageSource(train, target, config.undecodable),
        test=ImageSource(test, target, config.undecodable),
        splits=splits,
        fingerprint=found,
        notes=notes,
    )


def earlier_splits(run: Path, found: Fingerprint) -> Splits:
    kept = fingerprint.kept(run)
    if kept is None or not (run / SPLITS).is_file():
        raise CheckpointError(f"{run} has no {SPLITS} and {fingerprint.FILE}: its rows are unknown")
    kept.refuse_change(found, run)
    with np.load(run / SPLITS) as rows:
        return Splits(**rows)


def input_of(config: TrainConfig, train: Rows, seen: Survey) -> Input:
    return choose_input(
        seen, train.title, config.image_size, config.resize, config.crop_share, config.ground
    )


def refuse_unreadable(seen: list[Survey], config: TrainConfig) -> None:
    """Names files that cannot even be opened before anything is trained."""
    unreadable = [each for one in seen for each in one.unreadable]
    if unreadable and config.undecodable == "refuse":
        raise DataError(
            f"{len(unreadable)} images cannot be opened: {listed(unreadable)}; remove them, or "
            "leave them out with --set undecodable=skip"
        )


def rule(target: Input) -> str:
    """The resize rule in words."""
    if target.resize == "squash":
        return "squashed, aspect ratio not kept"
    if target.resize == "pad":
        return f"long side scaled, padded with {target.ground}"
    return f"short side scaled to {target.short_side or 'fit'}, then the centre cropped"
