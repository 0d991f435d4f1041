"""Metrics in the memory of this process, and the gauges that are read before a scrape."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from server.engine.model import ServedModel
from server.telemetry.ledger import Ledger
from server.telemetry.memory import Memory
from server.telemetry.series import Common, Counter, Family, Gauge, Histogram, Level

SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
F = TypeVar("F", bound=Family[Any])


class Families:
    """Makes metrics. A class for each thing that is measured adds its own, and counts in them.

    `fds` are the memories of all processes, this one's among them.
    """

    def __init__(self, memory: Memory, fds: Sequence[int]) -> None:
        self._memory, self._fds = memory, fds
        self._families: dict[str, Family[Any]] = {}
        self._watched: dict[Level, Callable[[], float]] = {}
        self.ledger = Ledger()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._added(Counter(self._memory, f"offramp_{name}", text, labels))

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return self._added(Gauge(self._memory, f"offramp_{name}", text, labels))

    def _common(self, name: str, text: str, *labels: str) -> Common:
        return self._added(Common(self._memory, f"offramp_{name}", text, labels))

    def _histogram(
        self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS
    ) -> Histogram:
        return self._added(Histogram(self._memory, f"offramp_{name}", text, labels, buckets))

    def _added(self, family: F) -> F:
        self._families[family.name] = family
        return family

    def model_loaded(self, model: ServedModel) -> None:
        """Starts every series of a model at zero, unless it is there already."""

    def refresh(self) -> None:
        """Adds up what is written down, and sets every gauge that is read somewhere else."""
        self.ledger.settle()
        for level, value_of in tuple(self._watched.items()):
            level.set(value_of())

    def _watch(self, level: Level, value_of: Callable[[], float]) -> None:
        """Sets the level now, and whenever gauges are refreshed."""
        self._watched[level] = value_of
        level.set(value_of())
