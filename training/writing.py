"""A bundle's directory, built aside and renamed into place: it exists whole or not at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.bundle.bundle import sha256
from models.bundle.manifest import MODEL_NAME
from models.bundle.records import File, Record
from training.graphs import ExportError


def free_place(zoo: Path, name: str, version: int) -> Path:
    """Where the bundle will be; raises ExportError for a name that is none or a place taken."""
    if not re.fullmatch(MODEL_NAME, name):
        raise ExportError(f"{name!r} is no model name: it takes letters, digits, '.', '_' and '-'")
    target = zoo / name / str(version)
    if target.exists():
        raise ExportError(f"{target} exists; bundles are immutable, choose another version")
    return target


@contextmanager
def built_aside(target: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `target` unless something goes wrong."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield aside
        aside.chmod(0o755)
        os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside)
        raise


def write_record(directory: Path, file: str, record: Record) -> File:
    content = (record.model_dump_json(indent=1) + "\n").encode()
    (directory / file).write_bytes(content)
    return File(file=file, sha256=sha256(content))
