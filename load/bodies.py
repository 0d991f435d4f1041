"""What to send: images or texts, and their labels where they are known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from load.generator import Body, Shot
from models.bundle.errors import UserError

KINDS = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp",
    ".txt": "text/plain",
}  # fmt: skip
SPLITS = ("train", "test", "val", "valid", "validation")
"""Folders of splits, which hold the class directories."""


@dataclass(frozen=True)
class Traffic:
    """Bodies in the order in which they are sent, and the label of each, if all are known."""

    bodies: list[Body]
    labels: list[str] | None

    def is_right(self, shot: Shot) -> bool:
        return self.labels is not None and shot.answer.get("label") == self.labels[shot.body]


def read(path: Path, num: int) -> Traffic:
    """At most `num` bodies, chosen at random, the same every time. Raises UserError for none.

    Of a directory each file is one, and its label is the name of the class directory that holds it,
    at any depth. Of a file each line is a text, followed by a tab and its label where it is known.
    """
    labelled = of_files(path) if path.is_dir() else of_lines(path)
    if not labelled:
        raise UserError(f"{path} holds neither images nor texts")
    chosen = np.random.default_rng(0).permutation(len(labelled))[:num]
    bodies = [labelled[row][0] for row in chosen]
    labels = [label for row in chosen if (label := labelled[row][1]) is not None]
    return Traffic(bodies, labels if len(labels) == len(bodies) else None)


def of_files(directory: Path) -> list[tuple[Body, str | None]]:
    """Leaves out hidden files: archives bring `._NAME` beside `NAME`."""
    paths = [path.relative_to(directory) for path in sorted(directory.rglob("*"))]
    files = [path for path in paths if path.suffix.lower() in KINDS and not is_hidden(path)]
    return [
        (Body((directory / file).read_bytes(), KINDS[file.suffix.lower()]), class_of(file))
        for file in files
    ]


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def class_of(file: Path) -> str | None:
    """The name of the first directory below any folder of a split; None without a directory."""
    directories = file.parts[:-1]
    if len(directories) > 1 and directories[0].lower() in SPLITS:
        directories = directories[1:]
    return directories[0] if directories else None


def of_lines(file: Path) -> list[tuple[Body, str | None]]:
    try:
        lines = [line for line in file.read_text("utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is neither a directory nor a text in UTF-8") from error
    parts = [line.partition("\t") for line in lines]
    return [(Body(text.encode(), KINDS[".txt"]), label or None) for text, _, label in parts]
