"""Keeps the models served in step with the zoo's directories."""

import asyncio
import logging
from pathlib import Path

from models.bundle.bundle import BundleError
from models.bundle.manifest import Key
from server.errors import Draining, UnknownModel
from server.zoo.directory import signatures, skipped, tell_skipped
from server.zoo.repository import Repository

logger = logging.getLogger("offramp.watcher")


async def watch(repository: Repository, zoo: Path, interval_s: float) -> None:
    """Every `interval_s`, loads versions that are new or replaced and unloads those that are gone.

    The first look compares with what was there before the catalog was loaded.
    A refused version is tried again only once one of its files changes. A zoo that cannot be read,
    or holds no bundle at all, changes nothing: more likely its disk is gone than everything in it.
    Directories that come with names of no bundle are logged.
    """
    seen, complaint = repository.catalog.signatures, ""
    strange = skipped(zoo)
    while True:
        try:
            before, strange = strange, await asyncio.to_thread(skipped, zoo)
            tell_skipped({*strange} - {*before})
            found = await asyncio.to_thread(signatures, zoo)
            for key in (*found, *sorted(seen.keys() - found.keys())):  # a successor comes first
                if seen.get(key) != found.get(key):
                    await follow(repository, key, is_gone=key not in found)
            seen, complaint = found, ""
        except BundleError as error:
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
