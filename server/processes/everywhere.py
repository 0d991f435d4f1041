"""The repository of a member: a load or unload in one process happens in all."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from models.bundle.bundle import BundleError
from models.bundle.manifest import Key
from server.errors import Draining, UnknownModel
from server.gate import Gate
from server.processes.wire import Wire, WireClosed
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog
from server.zoo.repository import LOADING, READY, UNAVAILABLE, Entry, Repository

logger = logging.getLogger("offramp.repository")
KINDS: tuple[type[Exception], ...] = (BundleError, Draining, UnknownModel)


class SharedRepository(Repository):
    """Sends every change to the parent, which calls `do` of all members. Finding stays local."""

    def __init__(
        self, wire: Wire, settings: Settings, catalog: Catalog, metrics: Metrics, gate: Gate
    ) -> None:
        super().__init__(settings, catalog, metrics, gate)
        self._wire = wire

    async def load(self, name: str, version: int | None = None) -> None:
        """As in one process. A bundle that another process refuses is a BundleError, too."""
        await self._change("load", name, version)

    async def unload(self, name: str, version: int | None = None) -> None:
        await self._change("unload", name, version)

    async def index(self) -> list[Entry]:
        """A version is ready where it is in every process."""
        try:
            indices = await self._wire.call(["index"])
        except WireClosed:
            raise Draining("the server is ending") from None
        entries: dict[Key, list[Entry]] = {}
        for name, version, state, reason in (row for index in indices for row in index):
            entries.setdefault((name, version), []).append(Entry((name, version), state, reason))
        return [together(entries[key]) for key in sorted(entries)]

    async def do(self, request: list[Any]) -> object:
        """Loads, unloads or lists models in this process, as the parent asks."""
        match request:
            case ["do", "load", name, version]:
                error = await refusal(super().load(name, version))
            case ["do", _, name, version]:
                error = await refusal(super().unload(name, version))
            case _:
                return [[*e.key, e.state, e.reason] for e in await super().index()]
        is_done = error is None or error["kind"] == BundleError.__name__
        return {"is_done": is_done, "error": error, "state": state_of(self.catalog)}

    async def _change(self, kind: str, name: str, version: int | None) -> None:
        change = asyncio.create_task(self._wire.call(["change", kind, name, version]))
        try:
            error = (await asyncio.shield(change))["error"]
        except WireClosed:
            raise Draining("the server is ending") from None
        if error is not None:
            raise raised(error)


def together(entries: list[Entry]) -> Entry:
    """One entry for a version, from those of all processes."""
    states = {entry.state for entry in entries}
    state = LOADING if LOADING in states else READY if states == {READY} else UNAVAILABLE
    reason = next((entry.reason for entry in entries if entry.reason), "")
    return Entry(entries[0].key, state, reason)


def state_of(catalog: Catalog) -> dict[str, list[list[object]]]:
    """The versions served, and the reasons against the others."""
    served: list[list[object]] = [[*model.key] for model in catalog]
    return {"served": served, "reasons": [[*key, why] for key, why in catalog.reasons.items()]}


async def refusal(step: Awaitable[None]) -> dict[str, Any] | None:
    """The error of a step, to be sent to another process, which waits for it: any error."""
    try:
        await step
    except Exception as error:
        if type(error) not in KINDS:
            logger.exception("models were not changed")
        return {
            "kind": type(error).__name__,
            "text": str(error),
            "field": getattr(error, "field", None),
        }
    return None


def raised(error: dict[str, Any]) -> Exception:
    """The error as it was raised in the other process."""
    if error["kind"] == UnknownModel.__name__:
        return UnknownModel(error["text"], error["field"])
    kinds = {kind.__name__: kind for kind in KINDS}
    return kinds.get(error["kind"], RuntimeError)(error["text"])
