"""Keeps the models served in step with the zoo's directories."""

import asyncio
import logging
from pathlib import Path

from models.bundle.bundle import BundleError
from models.bundle.manifest import MANIFEST
from server.catalog import Key, find_bundles
from server.errors import UnknownModel
from server.repository import Repository

logger = logging.getLogger("offramp.watcher")
Signature = tuple[int, int]


async def watch(repository: Repository, zoo: Path, interval_s: float) -> None:
    """Every `interval_s`, loads versions that are new or replaced and unloads those that are gone.

    Bundles are renamed into place, so that one that appears is whole. A refused version is tried
    again only once it changes.
    """
    seen = await asyncio.to_thread(signatures, zoo)
    while True:
        await asyncio.sleep(interval_s)
        try:
            found = await asyncio.to_thread(signatures, zoo)
            for key in sorted(seen.keys() | found.keys()):
                if seen.get(key) != found.get(key):
                    await follow(repository, key, is_gone=key not in found)
            seen = found
        except Exception:
            logger.exception("the zoo was not followed; next time it will be")


async def follow(repository: Repository, key: Key, *, is_gone: bool) -> None:
    try:
        await (repository.unload if is_gone else repository.load)(*key)
    except (BundleError, UnknownModel) as error:
        logger.info("%s version %d: %s", *key, error)


def signatures(zoo: Path) -> dict[Key, Signature]:
    """What tells a bundle from its replacement, unread: its manifest's inode and age."""
    found: dict[Key, Signature] = {}
    for key, path in find_bundles(zoo).items():
        try:
            stat = (path / MANIFEST).stat()
        except OSError:  # gone in the meantime, or no bundle
            continue
        found[key] = stat.st_ino, stat.st_mtime_ns
    return found
