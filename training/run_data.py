"""The data of one run: opened, split once, and compared when the run goes on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.bundle.image_input import ImageInput
from models.nets.pretrained import PREFIX
from models.nets.pretrained_text import parted
from training import tokenizing
from training.checkpoint import CheckpointError
from training.config import TrainConfig
from training.data import fingerprint
from training.data.columns import wanted_columns
from training.data.errors import DataError, listed
from training.data.fingerprint import Fingerprint
from training.data.layout import open_rows
from training.data.numbers import NumberSource, target_of
from training.data.opening import Found, find_records
from training.data.records import Records
from training.data.rows import DIGIT_SIZE, Rows
from training.data.source import ImageSource
from training.data.sources import Source, vocabulary_of
from training.data.splits import Splits, split_rows
from training.data.survey import Survey, choose_input, survey
from training.data.texts import TextSource

SPLITS = "splits.npz"


@dataclass(frozen=True)
class RunData:
    """Training and test rows, what they are made into, and the training rows' uses.

    `tokenizer` is the `tokenizer.json` of texts.
    """

    train: Source
    test: Source
    splits: Splits
    fingerprint: Fingerprint
    notes: list[str]
    tokenizer: str = ""

    def keep(self, run: Path) -> None:
        """Writes splits, aside first, fingerprint and tokenizer into a new run's directory."""
        aside = run / f".{SPLITS}.{os.getpid()}"
        with aside.open("wb") as file:
            np.savez(file, **vars(self.splits))
        os.replace(aside, run / SPLITS)
        fingerprint.keep(self.fingerprint, run)
        if self.tokenizer:
            (run / tokenizing.FILE).write_text(self.tokenizer)


def open_data(config: TrainConfig, run: Path, *, is_new: bool) -> RunData:
    """Opens the data of a run, and splits them if the run is new.

    Raises DataError where the run was made with other data.
    """
    named = wanted_columns(config.text_column, config.label_column, config.number_columns)
    found = find_records(config.data, named)
    if found is None:
        return open_images(config, run, is_new=is_new)
    return open_found(config, found, run, is_new=is_new)


def open_images(config: TrainConfig, run: Path, *, is_new: bool) -> RunData:
    if config.data == "digits" and config.image_size not in (None, DIGIT_SIZE):
        raise DataError(f"digits are {DIGIT_SIZE} pixels wide and are not resized")
    train = open_rows(config.data, "train")
    test = open_rows(config.data, "test", train.names)
    found = Fingerprint.of(train, test)
    splits = splits_of(config, train, run, found, is_new=is_new)
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


def open_found(config: TrainConfig, given: Found, run: Path, *, is_new: bool) -> RunData:
    """Texts or numbers: their tokenizer is learned, or kept from the run's beginning."""
    train, test = given.train, given.test
    found = Fingerprint.of(train, test)
    splits = splits_of(config, train, run, found, is_new=is_new)
    notes = given.notes
    if train.values is not None:
        target = target_of(train.values)
        sources: list[Source] = [NumberSource(rows, target) for rows in (train, test)]
        return RunData(sources[0], sources[1], splits, found, notes)
    texts = train.take(splits.train).texts
    tokenizer = tokenizer_of(config, texts) if is_new else tokenizing.read(run)
    text_input = tokenizing.target_of(tokenizer, texts, config.max_tokens, config.example)
    size = vocabulary_of(tokenizer)
    lengths = ", ".join(map(str, text_input.length_buckets))
    notes = [*notes, f"a tokenizer of {size} tokens; texts are padded to {lengths} tokens"]
    sources = [TextSource(rows, text_input, tokenizer) for rows in (train, test)]
    return RunData(sources[0], sources[1], splits, found, notes, tokenizer)


def tokenizer_of(config: TrainConfig, texts: Sequence[str]) -> str:
    """A new run's: the one that is named, the network's, or one that is learned."""
    if config.tokenizer is not None:
        return tokenizing.read(Path(config.tokenizer).expanduser())
    if config.net.startswith(PREFIX):
        return tokenizing.of_pretrained(parted(config.net.removeprefix(PREFIX))[0])
    return tokenizing.learned(texts, config.vocabulary)


def splits_of(
    config: TrainConfig, train: Rows | Records, run: Path, found: Fingerprint, *, is_new: bool
) -> Splits:
    if not is_new:
        return earlier_splits(run, found)
    num_apart = train.num_apart if isinstance(train, Records) else 0
    return split_rows(torch.from_numpy(train.labels), config, train.names, num_apart)


def earlier_splits(run: Path, found: Fingerprint) -> Splits:
    kept = fingerprint.kept(run)
    if kept is None or not (run / SPLITS).is_file():
        raise CheckpointError(f"{run} has no {SPLITS} and {fingerprint.FILE}: its rows are unknown")
    kept.refuse_change(found, run)
    with np.load(run / SPLITS) as rows:
        return Splits(**rows)


def input_of(config: TrainConfig, train: Rows, seen: Survey) -> ImageInput:
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


def rule(target: ImageInput) -> str:
    """The resize rule in words."""
    if target.resize == "squash":
        return "squashed, aspect ratio not kept"
    if target.resize == "pad":
        return f"long side scaled, padded with {target.ground}"
    return f"short side scaled to {target.short_side or 'fit'}, then the centre cropped"
