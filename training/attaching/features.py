"""Pooled features and the network's own logits, computed once and kept on disk."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from models.bundle.confidence import Floats
from models.bundle.defaults import default_cache
from models.bundle.runner import Arrays, SegmentRunner
from training.attaching.passes import View, as_it_is, passes
from training.attaching.photos import Photos

CACHE = "OFFRAMP_CACHE"
"""The environment variable that says where caches live."""


def mirrored(inputs: Arrays) -> Arrays:
    (images,) = inputs
    return [images[:, :, ::-1]]


VIEWS: dict[str, View] = {"plain": as_it_is, "mirrored": mirrored}
"""How training images are looked at; texts, and rows that calibrate, only plainly."""


@dataclass(frozen=True)
class Features:
    """Rows of what is kept on disk: view after view, each of every image.

    `pooled` is (all rows, all widths), each place's columns beside the next's; `logits` the
    network's own, (all rows, classes). `rows` are those meant here, `images` the image of each.
    """

    pooled: Floats
    logits: Floats
    widths: tuple[int, ...]
    rows: NDArray[np.int64]
    images: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, images: NDArray[np.int64], num_views: int) -> "Features":
        """The first views of some images."""
        num_images = self.images.max() + 1
        rows = np.concatenate([view * num_images + images for view in range(num_views)])
        return replace(self, rows=rows, images=np.tile(images, num_views))

    def batch(self, index: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Pooled features and logits at some positions of `rows`."""
        rows = self.rows[index]
        return self.pooled[rows], self.logits[rows]


def cache_directory() -> Path:
    given = os.environ.get(CACHE)
    return Path(given) if given else default_cache()


def cached_features(
    runner: SegmentRunner,
    widths: Sequence[int],
    num_classes: int,
    photos: Photos,
    views: Sequence[str],
    directory: Path,
    title: str,
) -> Features:
    """The features of every view of the photos, from `directory` as far as they are there.

    What is interrupted goes on where it was. A second process waits until the first has them all.
    """
    directory.mkdir(parents=True, exist_ok=True)
    num_rows = photos.num_rows * len(views)
    with cache_lock(directory):
        pooled = opened(directory / "pooled.npy", (num_rows, sum(widths)))
        logits = opened(directory / "logits.npy", (num_rows, num_classes))
        for index, view in enumerate(views):
            start = index * photos.num_rows
            done = opened(directory / f"done_{index}.npy", (photos.num_rows,), np.bool_)
            left = np.flatnonzero(~done)
            name = title if len(views) == 1 else f"{title}, {view}"
            for rows, outputs in passes(runner, photos, left, VIEWS[view], name):
                pooled[start + rows] = np.concatenate(outputs[:-1], axis=1)
                logits[start + rows] = outputs[-1]
                done[rows] = True
    images = np.tile(np.arange(photos.num_rows), len(views))
    return Features(pooled, logits, tuple(widths), np.arange(num_rows), images)


@contextmanager
def cache_lock(directory: Path) -> Iterator[None]:
    """Only one process at a time fills a directory of the cache; others wait and say so."""
    lock = FileLock(directory / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for another process that fills {directory}", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def opened(
    path: Path, shape: tuple[int, ...], dtype: type[np.generic] = np.float32
) -> NDArray[Any]:
    """An array on disk, made if it is not there."""
    if path.exists():
        return open_memmap(path, mode="r+")
    array = open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    try:
        with path.open("r+b") as file:  # a write to a page that a full disk lacks would be fatal
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError:
        path.unlink()
        raise
    return array


def fingerprint(*parts: object) -> str:
    """A name for what was computed from these and nothing else."""
    text = json.dumps([str(part) for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
