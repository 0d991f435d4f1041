"""The zoo's directories: which bundles there are, before any is read."""

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from models.bundle.bundle import BundleError
from models.bundle.manifest import MANIFEST, MODEL_NAME, Key, version_of

Signature = frozenset[tuple[str, int, int, int]]
logger = logging.getLogger("offramp.zoo")


def skipped(zoo: Path) -> list[Path]:
    """Directories whose names are no NAME/VERSION: nothing is served from them.

    Names that begin with a dot are left out: such directories are being written.
    """
    with suppress(OSError):
        parents = [path for path in zoo.iterdir() if is_shown(path)]
        named = [path for path in parents if re.fullmatch(MODEL_NAME, path.name)]
        versions = [path for parent in named for path in parent.iterdir() if is_shown(path)]
        strange = [path for path in versions if version_of(path.name) is None]
        return sorted({*parents} - {*named}) + sorted(strange)
    return []


def tell_skipped(paths: Iterable[Path]) -> None:
    for path in sorted(paths):
        logger.warning("skipped, since its name is not that of a bundle, NAME/VERSION: %s", path)


def is_shown(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def find_bundles(zoo: Path) -> dict[Key, Path]:
    """Every NAME/VERSION directory under `zoo`, versions rising; raises BundleError without any."""
    found: dict[Key, Path] = {}
    try:
        for parent in zoo.iterdir():
            if re.fullmatch(MODEL_NAME, parent.name) and parent.is_dir():
                for path in parent.iterdir():
                    version = version_of(path.name)
                    if version is not None and path.is_dir():
                        found[parent.name, version] = path
    except OSError as error:
        raise BundleError(f"{error.filename} cannot be read: {error.strerror}") from error
    if not found:
        raise BundleError(f"{zoo} holds no bundle: none of its directories is NAME/VERSION")
    return dict(sorted(found.items()))


def signatures(zoo: Path) -> dict[Key, Signature]:
    """What tells a bundle from its replacement, unread: its files' names, inodes, sizes and ages.

    Of one whose files cannot be looked at, the reason. Raises BundleError where the zoo cannot be
    read or is empty.
    """
    found: dict[Key, Signature] = {}
    for key, path in find_bundles(zoo).items():
        try:
            stats = {file.name: file.stat() for file in path.iterdir()}
        except OSError as error:  # loading it says why
            found[key] = frozenset({(str(error), 0, 0, 0)})
            continue
        if MANIFEST in stats:
            found[key] = frozenset(
                (name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()
            )
    return found
