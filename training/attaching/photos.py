"""Images to attach with: decoded when they are needed, with or without labels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Image
from numpy.typing import NDArray

from models.bundle.image import fit_image
from models.bundle.manifest import Input
from training.attaching.errors import AttachError
from training.data import DataError, SplitName, open_images, open_rows

Rows = NDArray[np.int64]
NO_LABEL = -1
CALIBRATION_SHARE = 0.2
"""Of the training rows; where there is no test split, as many again are kept for the report."""
MIN_CALIBRATION = 32


@dataclass(frozen=True)
class Photos:
    """Rows of one split; `labels`, (rows,), and their `names` are None where there are none."""

    num_rows: int
    decode: Callable[[Rows], NDArray[np.uint8]]
    fingerprint: str
    labels: Rows | None = None
    names: tuple[str, ...] | None = None

    def take(self, rows: Rows) -> "Photos":
        """Some of the rows."""
        return Photos(
            len(rows),
            lambda index: self.decode(rows[index]),
            self.fingerprint,
            None if self.labels is None else self.labels[rows],
            self.names,
        )

    def without_labels(self) -> "Photos":
        return Photos(self.num_rows, self.decode, self.fingerprint)


@dataclass(frozen=True)
class Parts:
    """The training split, the rows of it that heads learn from and that calibrate, and the test.

    Features are kept for the whole split, so that other parts of it need no new ones.
    """

    photos: Photos
    learning: Rows
    calibrating: Rows
    test: Photos

    @property
    def calibration(self) -> Photos:
        return self.photos.take(self.calibrating)


def open_parts(source: str, target: Input, seed: int) -> Parts:
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
    except DataError:
        test, order = photos.take(np.sort(order[:num_held])), order[num_held:]
    return Parts(photos, np.sort(order[num_held:]), np.sort(order[:num_held]), test)


def open_photos(source: str, split: SplitName, target: Input) -> Photos:
    """One split of "digits", of a directory of parquet files or images, or of a hub name."""
    if source == "digits":
        digits = open_images(source, split)
        return Photos(
            len(digits.labels),
            digits.decode,
            f"{source}-{split}",
            digits.labels.numpy(),
            digits.names,
        )
    rows = open_rows(source, split)
    images = next((name for name, kind in rows.features.items() if isinstance(kind, Image)), None)
    if images is None:
        raise AttachError(f"{source} has no images among {', '.join(rows.column_names)}")
    label = next((n for n, kind in rows.features.items() if isinstance(kind, ClassLabel)), None)
    column = rows.select_columns([images])

    def decode(index: Rows) -> NDArray[np.uint8]:
        try:
            return np.stack([fit_image(row[images], target) for row in column.select(index)])
        except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a syntax error
            raise DataError(f"an image of {source!r} cannot be decoded: {error}") from error

    return Photos(
        len(rows),
        decode,
        f"{rows._fingerprint}",
        None if label is None else np.array(rows[label][:], dtype=np.int64),
        None if label is None else tuple(rows.features[label].names),
    )


def matched(photos: Photos, labels: tuple[str, ...]) -> Photos:
    """The photos with their labels numbered as the network numbers them.

    Labels that the network does not know make the photos unlabelled.
    """
    if photos.labels is None or photos.names is None:
        return photos
    if not set(photos.names) <= set(labels):
        return photos.without_labels()
    numbers = np.array([labels.index(name) for name in photos.names], dtype=np.int64)
    return Photos(
        photos.num_rows,
        photos.decode,
        photos.fingerprint,
        np.where(photos.labels >= 0, numbers[photos.labels], NO_LABEL),
        labels,
    )
