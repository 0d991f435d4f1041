"""Rows to attach with, images or texts: made ready when they are needed, labelled or not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from models.bundle.image import fit_image
from models.bundle.image_input import ImageInput
from models.bundle.runner import Arrays
from models.bundle.text_input import TextInput
from training.attaching.errors import AttachError
from training.data import DataError
from training.data.columns import Wanted
from training.data.errors import NoSuchSplit, listed
from training.data.folders import SPLIT_NAMES, FolderRows, sorted_images, split_folder
from training.data.layout import open_rows
from training.data.opening import Found, find_records
from training.data.rows import Index, Labels, Rows, SplitName
from training.data.survey import ERRORS, complaint
from training.data.tables import parquet_files
from training.data.texts import TextSource

CALIBRATION_SHARE = 0.2
"""Of the training rows; where there is no test split, as many again are kept for the report."""
MIN_CALIBRATION = 32


class UndecodablePhotos(DataError):
    """Photos that cannot be decoded; each failure names one."""

    def __init__(self, failures: Sequence[str]) -> None:
        super().__init__(
            f"{len(failures)} images cannot be decoded: {listed(failures)}; remove them"
        )
        self.failures = failures


@dataclass(frozen=True)
class Photos:
    """Images, or texts, of one split; `labels`, (rows,), and `names` are None where there are none.

    `decode` gives what segment 1 takes. Rows of one place in `order` go well together.
    """

    num_rows: int
    decode: Callable[[Index], Arrays]
    fingerprint: str
    order: Index
    labels: Labels | None = None
    names: tuple[str, ...] | None = None

    def take(self, rows: Index) -> "Photos":
        """Some of the rows."""
        return replace(
            self,
            num_rows=len(rows),
            decode=lambda index: self.decode(rows[index]),
            order=self.order[rows],
            labels=None if self.labels is None else self.labels[rows],
        )

    def without_labels(self) -> "Photos":
        return replace(self, labels=None, names=None)


@dataclass(frozen=True)
class Parts:
    """The training split, the rows of it that heads learn from and that calibrate, and the test.

    Features are kept for the whole split, so that other parts of it need no new ones.
    """

    photos: Photos
    learning: Index
    calibrating: Index
    test: Photos

    @property
    def calibration(self) -> Photos:
        return self.photos.take(self.calibrating)


def open_parts(source: str, target: ImageInput, seed: int) -> Parts:
    """Opens a data set's images; the same seed gives the same parts."""
    photos = open_photos(source, "train", target)
    order = np.random.default_rng(seed).permutation(photos.num_rows)
    num_held = round(CALIBRATION_SHARE * photos.num_rows)
    if num_held < MIN_CALIBRATION:
        raise AttachError(
            f"{source} has {photos.num_rows} images to learn from; at least "
            f"{round(MIN_CALIBRATION / CALIBRATION_SHARE)} are needed"
        )
    try:
        test = open_photos(source, "test", target)
    except NoSuchSplit:
        test, order = photos.take(np.sort(order[:num_held])), order[num_held:]
    return Parts(photos, np.sort(order[num_held:]), np.sort(order[:num_held]), test)


def open_photos(source: str, split: SplitName, target: ImageInput) -> Photos:
    """One split of a data set; a directory without any is a training split without labels."""
    directory = Path(source).expanduser()
    if split == "train" and directory.is_dir() and not has_splits(directory):
        files = sorted_images(directory)
        rows = FolderRows(directory, ("",), np.zeros(len(files), dtype=np.int64), files)
        return photos_of(rows, target).without_labels()
    return photos_of(open_rows(source, split), target)


def has_splits(directory: Path) -> bool:
    return any(split_folder(directory, s) or parquet_files(directory, s) for s in SPLIT_NAMES)


def photos_of(rows: Rows, target: ImageInput) -> Photos:
    """Rows fitted to what segment 1 takes."""

    def decode(index: Index) -> Arrays:
        images, failures = [], []
        for row in index.tolist():
            try:
                with rows.open(row) as image:
                    images.append(fit_image(image, target))
            except ERRORS as error:
                failures.append(complaint(rows, row, error))
        if failures:
            raise UndecodablePhotos(failures)
        return [np.stack(images)]

    content = sha256(np.ascontiguousarray(rows.identities()).tobytes())
    content.update(rows.title.encode())
    num_rows = len(rows.labels)
    return Photos(
        num_rows, decode, content.hexdigest(), np.zeros(num_rows, int), rows.labels, rows.names
    )


def texts_of(source: TextSource) -> Photos:
    """Texts as segment 1 takes them, those of one length bucket together."""

    def decode(index: Index) -> Arrays:
        return [x.numpy() for x in source.take(index).inputs]

    rows = source.rows
    content = sha256(rows.identities().tobytes())
    content.update(source.target.model_dump_json().encode())
    return Photos(
        len(rows.labels), decode, content.hexdigest(), source.buckets, rows.labels, rows.names
    )


def open_texts(source: str, seed: int) -> tuple[tuple[str, ...], Callable[[TextInput, str], Parts]]:
    """The training texts of a table, and how they become parts once a tokenizer is known."""
    found = find_records(source, Wanted())
    if found is None or found.train.values is not None:
        raise AttachError(f"{source} has no texts: it must be a table with a column of them")
    return found.train.texts, partial(text_parts, source, found, seed)


def text_parts(source: str, found: Found, seed: int, target: TextInput, tokenizer: str) -> Parts:
    """A validation split calibrates, or else a part of the training rows."""
    train, test = (
        texts_of(TextSource(rows, target, tokenizer)) for rows in (found.train, found.test)
    )
    num_apart = found.train.num_apart
    order = np.random.default_rng(seed).permutation(train.num_rows - num_apart)
    num_held = 0 if num_apart else round(CALIBRATION_SHARE * train.num_rows)
    held = np.append(order[:num_held], train.num_rows - num_apart + np.arange(num_apart))
    if len(held) < MIN_CALIBRATION:
        raise AttachError(
            f"{source} has {len(held)} texts to calibrate with, not {MIN_CALIBRATION}"
        )
    return Parts(train, np.sort(order[num_held:]), np.sort(held), test)


def matched(photos: Photos, labels: tuple[str, ...]) -> Photos:
    """The photos with their labels numbered as the network numbers them.

    Labels that the network does not know make the photos unlabelled.
    """
    if photos.labels is None or photos.names is None:
        return photos
    if unknown(photos, labels):
        return photos.without_labels()
    numbers = np.array([labels.index(n) if n in labels else -1 for n in photos.names], np.int64)
    return replace(photos, labels=numbers[photos.labels], names=labels)


def unknown(photos: Photos, labels: tuple[str, ...]) -> list[str]:
    """Classes that the network does not know; those without any photo do not count."""
    if photos.labels is None or photos.names is None:
        return []
    present = (photos.names[number] for number in np.unique(photos.labels))
    return [name for name in present if name not in labels]
