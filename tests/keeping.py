"""What takes long to make is made once per machine, whatever the number of runs and workers."""

import getpass
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

from benchmarks.process import ROOT

SOURCES = ("models/bundle", "models/nets", "training")


def kept(name: str, make: Callable[[Path], object], copy: Path) -> None:
    """Makes a directory, or copies the one that the same sources made before, to `copy`."""
    place = Path(tempfile.gettempdir()) / f"pytest-of-{getpass.getuser()}" / f"kept-{fingerprint()}"
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / f"{name}.lock"):
        if not (place / name).exists():
            aside = place / f"{name}.part"
            shutil.rmtree(aside, ignore_errors=True)
            make(aside)
            aside.rename(place / name)
    shutil.copytree(place / name, copy)


@cache
def fingerprint() -> str:
    """A hash of all sources that bundles are made by, and of the packages' versions."""
    files = [path for room in SOURCES for path in sorted((ROOT / room).rglob("*.py"))]
    found = hashlib.sha256()
    for path in (*files, ROOT / "requirements/dev.txt", ROOT / "tests/digits.py"):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
