"""What kept answers are counted as: rows that were looked up, and bytes."""

from collections.abc import Callable, Sequence

from server.engine.model import ServedModel
from server.telemetry.families import Families
from server.telemetry.ledger import later
from server.telemetry.memory import Memory

LOOKUPS = {True: "hit", False: "miss"}


class CacheMetrics(Families):
    """Rows looked up by model and result, and what the kept answers take."""

    def __init__(self, memory: Memory, fds: Sequence[int]) -> None:
        super().__init__(memory, fds)
        self._cache_lookups = self._counter(
            "cache_lookups", "Rows looked up among kept answers", "model", "result"
        )
        self._cache_bytes = self._gauge("cache_bytes", "Bytes of kept answers").labels()

    def model_loaded(self, model: ServedModel) -> None:
        super().model_loaded(model)
        for result in LOOKUPS.values():
            self._cache_lookups.labels(model.manifest.name, result)

    @later
    def looked_up(self, model: ServedModel, rows: int, *, is_hit: bool) -> None:
        self._cache_lookups.labels(model.manifest.name, LOOKUPS[is_hit]).inc(rows)

    def watch_cache(self, num_bytes: Callable[[], int]) -> None:
        """Reads what kept answers take whenever gauges are refreshed."""
        self._watch(self._cache_bytes, num_bytes)
