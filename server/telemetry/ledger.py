"""Counts are written down at once and added up later, many at a time.

A request that ends only appends to a list. The counting itself runs between batches, for many
requests together, so that its code and its numbers stay in the processor's caches.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial, update_wrapper
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from prometheus_client import Metric
from prometheus_client.registry import Collector

logger = logging.getLogger("offramp")
SETTLE_S = 0.05
P = ParamSpec("P")


class Ledger(Collector):
    """Calls that only count, or log, in the order they were written down.

    They are made `SETTLE_S` later where an event loop runs, and before the registry is read: it is
    the first collector there, and has no metrics of its own.
    """

    def __init__(self) -> None:
        self._entries: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def write(self, count: Callable[P, object], *args: P.args, **named: P.kwargs) -> None:
        """Calls `count` with these arguments later."""
        self._entries.append((partial(count, **named) if named else count, args))
        if self._timer is None:
            with suppress(RuntimeError):  # no loop runs
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(SETTLE_S, self._settle_on_time)

    def settle(self) -> None:
        """Makes the calls that are written down; any thread may ask. Their errors are logged."""
        while self._entries:
            try:
                count, args = self._entries.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                count(*args)
            except Exception:  # an answer is worth more than its count
                logger.exception("something was not counted")

    def collect(self) -> Iterator[Metric]:
        self.settle()
        return iter(())

    def _settle_on_time(self) -> None:
        self._timer = None
        self.settle()


class Counting(Protocol):
    """What counts through a ledger."""

    @property
    def ledger(self) -> Ledger: ...


C = TypeVar("C", bound=Counting)


def later(count: Callable[Concatenate[C, P], None]) -> Callable[Concatenate[C, P], None]:
    """A method that only counts: its calls are written down in `self.ledger` and made later."""

    def write(self: C, /, *args: P.args, **named: P.kwargs) -> None:
        self.ledger.write(count, self, *args, **named)

    update_wrapper(write, count)
    return write
