"""Every metric of the server in one registry: a module for each thing that is measured."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.platform_collector import PlatformCollector

from server.telemetry.answers import AnswerMetrics
from server.telemetry.batches import BatchMetrics
from server.telemetry.exporting import Members, Sums
from server.telemetry.host import HostMetrics
from server.telemetry.kept import CacheMetrics
from server.telemetry.memory import Memory
from server.telemetry.models import ModelMetrics
from server.telemetry.requests import RequestMetrics


class Metrics(RequestMetrics, AnswerMetrics, BatchMetrics, CacheMetrics, ModelMetrics, HostMetrics):
    """Metrics in a registry of their own; known series start at zero."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, memory: Memory | None = None, fds: Sequence[int] = ()) -> None:
        """Counts in `memory`, and exports the sum with those of the other processes, if any."""
        memory = memory or Memory()
        super().__init__(memory, fds or (memory.fd,))
        self.registry = CollectorRegistry()
        self.registry.register(self.ledger)
        self.registry.register(Sums(self._fds, self._families, self.refresh))
        self.registry.register(Members(self._fds))
        PlatformCollector(registry=self.registry)

    def exposition(self) -> bytes:
        """The registry in Prometheus's text format."""
        return generate_latest(self.registry)
