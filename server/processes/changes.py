"""Loads and unloads: every member makes them in the same order, before they are answered."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from server.processes.child import Child
from server.processes.wire import WireClosed

INDEX_S = 2.0
"""Time that a member has to list its models; a member that hangs is left out."""


class Changes:
    """Calls the members. `log` holds all changes, `state` the models after the latest one.

    A member that starts is sent the state, and when it is ready the changes since.
    """

    def __init__(self, ready: Callable[[], Sequence[Child]]) -> None:
        self._ready = ready
        self._lock = asyncio.Lock()
        self.log: list[list[Any]] = []
        self.state: object = None

    async def answer(self, child: Child, request: Any) -> object:  # noqa: ANN401
        """Answers a call of a member."""
        match request:
            case ["ready", state, int(num_known)]:
                await self._join(child, state, num_known)
                return None
            case ["change", *change]:
                return await self._change(child, change)
            case _:
                return await self._index()

    async def _join(self, child: Child, state: object, num_known: int) -> None:
        async with self._lock:
            for change in self.log[num_known:]:
                await child.wire.call(["do", *change])
            if self.state is None:
                self.state = state
            child.is_ready = True
        child.settled.set()

    async def _change(self, first: Child, change: list[Any]) -> object:
        """Asks the calling member first: if it fails, for a bad name say, no other is asked."""
        async with self._lock:
            said = await first.wire.call(["do", *change])
            if said["is_done"]:
                self.state = said["state"]
                self.log.append(change)
                others = [child for child in self._ready() if child is not first]
                answers = await asyncio.gather(*[told(child, change) for child in others])
                if said["error"] is None:
                    said["error"] = next(filter(None, answers), None)
            return {"error": said["error"]}

    async def _index(self) -> list[object]:
        calls = [asyncio.wait_for(child.wire.call(["index"]), INDEX_S) for child in self._ready()]
        said = await asyncio.gather(*calls, return_exceptions=True)
        return [index for index in said if not isinstance(index, BaseException)]


async def told(child: Child, change: list[Any]) -> object:
    """The error of a member that could not follow a change; None if it could, or has ended.

    Its successor begins with the new state.
    """
    try:
        said = await child.wire.call(["do", *change])
    except WireClosed:
        return None
    error = said["error"]
    if error is None:
        return None
    return error | {"text": f"process {child.number}: {error['text']}"}
