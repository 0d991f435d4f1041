"""The server's metrics through Ray's exporters, whose ports are all that a Prometheus can find."""

import asyncio

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample
from ray.serve.metrics import Gauge

REPORT_S = 1.0  # below Ray's own interval: what is not reported in one is not exported


class Exporter:
    """Every series of a registry as a gauge of Ray, which adds `ray_` to names, and the replica."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._gauges: dict[str, Gauge] = {}

    def report(self) -> None:
        """Now, and from now on as long as the event loop runs."""
        for family in self._registry.collect():
            for sample in family.samples:
                self._gauge(sample).set(sample.value, dict(sample.labels))
        asyncio.get_running_loop().call_later(REPORT_S, self.report)

    def _gauge(self, sample: Sample) -> Gauge:
        if sample.name not in self._gauges:
            self._gauges[sample.name] = Gauge(sample.name, tag_keys=tuple(sample.labels))
        return self._gauges[sample.name]
