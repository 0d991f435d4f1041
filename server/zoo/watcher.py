"""Keeps the models served in step with the zoo's directories."""

import asyncio
import logging
import os
from pathlib import Path

from models.bundle.bundle import BundleError
from models.bundle.manifest import MANIFEST, Key
from server.errors import Draining, UnknownModel
from server.zoo.directory import find_bundles
from server.zoo.repository import Repository

logger = logging.getLogger("offramp.watcher")
Signature = frozenset[tuple[str, int, int, int]]


async def watch(repository: Repository, zoo: Path, interval_s: float) -> None:
    """Every `interval_s`, loads versions that are new or replaced and unloads those that are gone.

    A refused version is tried again only once one of its files changes. A zoo that cannot be read,
    or holds no bundle at all, changes nothing: more likely its disk is gone than everything in it.
    """
    seen: dict[Key, Signature] | None = None
    complaint = ""
    while True:
        try:
            found = await asyncio.to_thread(signatures, zoo)
            old = found if seen is None else seen
            for key in sorted(old.keys() | found.keys()):
                if old.get(key) != found.get(key):
                    await follow(repository, key, is_gone=key not in found)
            seen, complaint = found, ""
        except (BundleError, OSError) as error:
            if str(error) != complaint:
                complaint = str(error)
                logger.warning("the zoo is not followed: %s", complaint)
        except Exception:
            logger.exception("the zoo was not followed; next time it will be")
        await asyncio.sleep(interval_s)


async def follow(repository: Repository, key: Key, *, is_gone: bool) -> None:
    try:
        await (repository.unload if is_gone else repository.load)(*key)
    except (BundleError, Draining, UnknownModel) as error:
        logger.info("%s version %d: %s", *key, error)


def signatures(zoo: Path) -> dict[Key, Signature]:
    """What tells a bundle from its replacement, unread: its files' names, inodes, sizes and ages.

    Raises BundleError or OSError where the zoo cannot be read or is empty.
    """
    found: dict[Key, Signature] = {}
    for key, path in find_bundles(zoo).items():
        stats = {entry.name: entry.stat() for entry in os.scandir(path)}
        if MANIFEST in stats:
            found[key] = frozenset(
                (name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()
            )
    return found
