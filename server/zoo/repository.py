"""Which bundles of the zoo are served: loading, replacing and unloading them while others run."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.bundle.bundle import BundleError
from models.bundle.energy import find_meter
from models.bundle.manifest import Key
from server.engine.model import ServedModel
from server.errors import NotReady, UnknownModel
from server.gate import Gate
from server.settings import Settings
from server.zoo.catalog import Catalog, serve_bundle
from server.zoo.directory import find_bundles

logger = logging.getLogger("offramp.repository")
READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class Entry:
    """A version on disk or served. `reason`: why it is not, or why its newer copy is not."""

    key: Key
    state: str
    reason: str


class Counting(Protocol):
    """The repository's counts."""

    def model_loaded(self, model: ServedModel) -> None: ...
    def model_unloaded(self, model: ServedModel) -> None: ...
    def model_refused(self, name: str) -> None: ...
    def statistics_begin(self, model: ServedModel) -> None: ...
    def default_is(self, model: ServedModel) -> None: ...


class Repository:
    """Changes the catalog, one change at a time and only on the event loop.

    Bundles are read and measured in a thread. A version serves until its successor is ready, a
    refused one changes nothing; jobs keep the model they were admitted with. Names and versions
    are compared with what the zoo holds, and never made into paths.
    """

    def __init__(self, settings: Settings, catalog: Catalog, counts: Counting, gate: Gate) -> None:
        self.catalog = catalog
        self._settings, self._counts = settings, counts
        self._gate = gate
        self._meter = find_meter(settings.cores.execution_provider)
        self._lock = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._loading: Key | None = None

    def find(self, name: str | None, version: int | None) -> ServedModel:
        """The version that serves, by default the highest of the only model.

        Raises UnknownModel, or NotReady for one that the zoo has and the server does not serve.
        Why a bundle was refused is for operators: it names files of theirs.
        """
        if name is None:
            name = self.catalog.only()
        try:
            return self.catalog.find(name, version)
        except UnknownModel:
            for key, reason in sorted(self.catalog.reasons.items(), reverse=True):
                if key[0] == name and version in (None, key[1]):
                    what = UNLOADED if reason == UNLOADED else "refused"
                    raise NotReady(f"{name} version {key[1]} is not served: {what}") from None
            raise

    async def index(self) -> list[Entry]:
        """Every version on disk or served."""
        served = {model.key for model in self.catalog}
        keys = sorted({*await self._bundles(), *served})
        return [self._entry(key) for key in keys]

    async def load(self, name: str, version: int | None = None) -> None:
        """Loads or renews a version, or every one on disk; raises UnknownModel or BundleError.

        Once begun it goes on until the server is ending, even if no client waits for it any more:
        then it raises Draining.
        """
        change = asyncio.create_task(self._load_all(name, version))
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)
        await asyncio.shield(change)

    async def unload(self, name: str, version: int | None = None) -> None:
        """No new job gets the version, or any of the model; raises UnknownModel."""
        async with self._lock:
            served = {model.key: model for model in self.catalog}
            for key in matching({*await self._bundles(), *served}, name, version):
                if key in served:
                    self.catalog.remove(served[key])
                    self._counts.model_unloaded(served[key])
                    logger.info("unloaded %s version %d", *key)
                self.catalog.reasons[key] = UNLOADED
            self._tell_default(name)

    async def _load_all(self, name: str, version: int | None) -> None:
        async with self._lock:
            bundles = await self._bundles()
            keys = matching(bundles, name, version)
            refusals = [await self._load(key, bundles[key]) for key in keys]
        for refusal in refusals:
            if refusal is not None:
                raise refusal

    async def _load(self, key: Key, path: Path) -> BundleError | None:
        """Serves the bundle on disk, or gives the reason against it."""
        current = self.catalog.get(key)
        self._loading = key
        try:
            model = await asyncio.to_thread(
                serve_bundle, path, self._settings, self._meter, current, self._gate.check_open
            )
        except BundleError as error:
            logger.warning("refused: %s", error)
            self.catalog.reasons[key] = str(error)
            self._counts.model_refused(key[0])
            return error
        finally:
            self._loading = None
        self.catalog.reasons.pop(key, None)
        if model is not current:
            if current is None or model.runner is not current.runner:
                self._counts.statistics_begin(model)
            self._counts.model_loaded(model)
            self.catalog.add(model)
            self._tell_default(key[0])
            logger.info("loaded %s version %d", *key)
        return None

    async def _bundles(self) -> dict[Key, Path]:
        """What is on disk; forgets reasons about what is neither there nor served.

        Where the zoo cannot be read, what is served.
        """
        try:
            found = await asyncio.to_thread(find_bundles, self._settings.models.zoo)
        except BundleError as error:
            logger.warning("the zoo is gone: %s", error)
            return {model.key: model.bundle.path for model in self.catalog}
        for key in self.catalog.reasons.keys() - found.keys():
            if self.catalog.get(key) is None:
                del self.catalog.reasons[key]
        return found

    def _entry(self, key: Key) -> Entry:
        state = READY if self.catalog.get(key) else UNAVAILABLE
        if state is UNAVAILABLE and key == self._loading:
            state = LOADING
        return Entry(key, state, self.catalog.reasons.get(key, ""))

    def _tell_default(self, name: str) -> None:
        if versions := self.catalog.versions(name):
            self._counts.default_is(versions[-1])


def matching(keys: Iterable[Key], name: str, version: int | None) -> list[Key]:
    """The versions asked for; raises UnknownModel where there are none."""
    found = [key for key in keys if key[0] == name and version in (None, key[1])]
    if not found:
        which = "" if version is None else f" version {version}"
        raise UnknownModel(f"the repository has no {name!r}{which}", "model")
    return found
