"""Image folders: DIR/train/CLASS/... and DIR/test/CLASS/..., in bounded memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.errors import DataError, listed
from training.data.rows import READ_BYTES, Labels, SplitName

SUFFIXES = (
    *(b".jpg", b".jpeg", b".jpe", b".png", b".webp", b".bmp", b".gif", b".tif", b".tiff"),
    *(b".ppm", b".pgm", b".pbm"),
)
SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "test": ("test", "val", "valid", "validation"),
}
"""What a split may be called, the first that is there counts."""


@dataclass(frozen=True)
class FolderRows:
    """Files below class folders. A row is its label and its file's name within the class folder.

    Names are kept as one array of bytes: a million take a few dozen MiB, and worker processes
    share them.
    """

    folder: Path
    names: tuple[str, ...]
    labels: Labels
    files: NDArray[np.bytes_]

    @property
    def title(self) -> str:
        return str(self.folder)

    def open(self, row: int) -> Image.Image:
        return Image.open(self.describe(row))

    def describe(self, row: int) -> str:
        name = self.names[int(self.labels[row])]
        return os.path.join(self.folder, name, os.fsdecode(self.files[row]))

    def identities(self) -> NDArray[np.generic]:
        """Name, size and checksum of every file. Large splits are known by name and size alone.

        Times are no part of it: a copy, or a fresh checkout, of the same files is the same data.
        """
        paths = [self.describe(row) for row in range(len(self.labels))]
        sizes = [num_bytes(path) for path in paths]
        is_read = sum(sizes) <= READ_BYTES
        sums = [checksum(path) if is_read else 0 for path in paths]
        files = zip(self.files.tolist(), sizes, sums, strict=True)
        return np.array([b"%b %d %d" % file for file in files])


def num_bytes(path: str) -> int:
    """The size of a file, 0 for one that cannot be looked at."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def checksum(path: str) -> int:
    """Of a file's bytes, 0 for one that cannot be read: the survey names it."""
    try:
        return crc32(Path(path).read_bytes())
    except OSError:
        return 0


def split_folder(directory: Path, split: SplitName) -> Path | None:
    """The folder that holds a split, under any of its names, in any case."""
    found: dict[str, list[Path]] = {}
    for path in sorted(directory.iterdir()):
        if path.name.lower() in SPLIT_NAMES[split] and path.is_dir():
            found.setdefault(path.name.lower(), []).append(path)
    for name in SPLIT_NAMES[split]:
        if len(same := found.get(name, [])) > 1:
            raise DataError(f"{listed(map(str, same))} differ in case only; keep one of them")
        if same:
            return same[0]
    return None


def folder_rows(folder: Path, names: tuple[str, ...] | None) -> FolderRows:
    """The images of every class folder, in the order of their names.

    Classes are numbered as in `names`, where given.
    """
    folders = class_names(folder)
    if not folders:
        raise DataError(f"{folder} has no class folders")
    names = folders if names is None else names
    unknown = sorted(set(folders) - set(names))
    if unknown:
        raise DataError(f"{folder} has classes that are not among the labels: {listed(unknown)}")
    files = [sorted_images(folder / name) for name in names]
    labels = np.repeat(np.arange(len(names)), [len(each) for each in files])
    if len(labels) == 0:
        raise DataError(f"{folder} has no images in its class folders")
    return FolderRows(folder, names, labels, np.concatenate(files))


def class_names(folder: Path) -> tuple[str, ...]:
    """Those of its folders, links to folders too; hidden ones are no classes."""
    folders = (path.name for path in folder.iterdir() if path.is_dir())
    return tuple(sorted(name for name in folders if not name.startswith(".")))


def has_class_images(folder: Path) -> bool:
    """Whether a class folder holds an image, at any depth."""
    classes = (os.path.join(os.fsencode(folder / name), b"") for name in class_names(folder))
    return any(next(images_below(each), None) for each in classes)


def sorted_images(folder: Path) -> NDArray[np.bytes_]:
    if not folder.is_dir():
        return np.empty(0, dtype="S1")
    start = os.path.join(os.fsencode(folder), b"")
    return np.array(sorted(path[len(start) :] for path in images_below(start)), dtype="S")


def images_below(folder: bytes) -> Iterator[bytes]:
    """Paths of all image files at any depth; a linked folder is entered once, links may loop."""
    pending, entered = [folder], {os.path.realpath(folder)}
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    continue
                # asks the disk about no more entries than it must: there may be a million
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.name.lower().endswith(SUFFIXES):
                    yield entry.path
                elif entry.is_symlink() and entry.is_dir() and is_new(entry.path, entered):
                    pending.append(entry.path)


def is_new(folder: bytes, entered: set[bytes]) -> bool:
    """Whether the folder was not entered before; from now on it was."""
    place = os.path.realpath(folder)
    if place in entered:
        return False
    entered.add(place)
    return True
