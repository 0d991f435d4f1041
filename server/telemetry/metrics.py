"""Every metric of the server, and the only place that knows their names."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from math import inf

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from models.bundle.energy import Meter
from models.bundle.policy import StopReason
from server.engine.job import Budget, Outcome
from server.errors import BodiesTooLarge, Draining, Infeasible, Overloaded, Unavailable
from server.zoo.catalog import ServedModel

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series

SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)
FAILURES = (500, 503)
SHED_REASONS: dict[type[Exception], str] = {
    Overloaded: "overload",
    BodiesTooLarge: "overload",
    Infeasible: "infeasible",
    Unavailable: "unavailable",
    Draining: "draining",
}
AGREEMENT = {True: "agree", False: "differ"}
OUTCOMES = ("answered", "failed", "cancelled")
CANCELLED_STAGES = ("body", "decode", "queue", "segment", "response")
"""What was going on when a client went away; "segment" from the first segment that ran."""


class Metrics:
    """Metrics in a registry of their own; known series start at zero."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)

        # to look a series up by its labels takes as long as to count in it, unless it is kept
        def counter(name: str, text: str, *labels: str) -> Counter:
            made = Counter(f"offramp_{name}", text, labels, registry=registry)
            made.labels = cache(made.labels)  # type: ignore[method-assign]
            return made

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"offramp_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS
        ) -> Histogram:
            made = Histogram(f"offramp_{name}", text, labels, buckets=buckets, registry=registry)
            made.labels = cache(made.labels)  # type: ignore[method-assign]
            return made

        self._requests = counter("requests", "HTTP requests answered", "route", "code")
        self._request_duration = histogram(
            "request_duration_seconds", "From headers received to last byte sent", "route"
        )
        self._inferences = counter("inferences", "Images that were admitted", "model", "outcome")
        self._exits = counter("exits", "Answers given at each exit", "model", "exit")
        self._stops = counter(
            "stops", "Answers, and images cancelled, by stop reason", "model", "reason"
        )
        self._answer_duration = histogram(
            "answer_duration_seconds",
            "From a request's arrival to its answer, by the exit of each image",
            "model",
            "exit",
        )
        self._queue_wait = histogram(
            "queue_wait_seconds", "Time an image waited for a worker, all segments", "model"
        )
        self._segment_duration = histogram(
            "segment_duration_seconds",
            "Core time of one run of a segment for a batch",
            "model",
            "exit",
        )
        self._decode_duration = histogram(
            "decode_duration_seconds", "Decoding the images of one request"
        )
        self._batch_rows = histogram(
            "batch_rows", "Images run through a segment together", "model", "exit", buckets=ROWS
        )
        self._confidence = histogram(
            "confidence", "Confidence at each exit head that ran", "model", "exit", buckets=SHARES
        )
        self._budget_slack = histogram(
            "budget_slack_seconds", "Latency budget left at the answer", "model"
        )
        self._budget_overrun = histogram(
            "budget_overrun_seconds", "Time past the deadline at the answer", "model"
        )
        self._deadline_misses = counter(
            "deadline_misses", "Answers that came after their deadline", "model"
        )
        self._depth_limited = counter(
            "depth_limited", "Answers cut short that would not have been without waiting", "model"
        )
        self._shed = counter("shed", "Images, or whole requests, refused before any work", "reason")
        self._cancelled = counter("cancelled", "Requests whose client went away", "stage")
        self._queue_depth = gauge("queue_depth", "Images waiting for a worker")
        self._queue_capacity = gauge("queue_capacity", "Images that may be admitted at once")
        self._in_flight = gauge("in_flight", "Images admitted and not yet answered")
        self._segment_failures = counter(
            "segment_failures", "Batches that a segment or its exit head failed", "model", "exit"
        )
        self._segment_disabled = gauge(
            "segment_disabled", "1 while a segment or its exit head is out of use", "model", "exit"
        )
        self._worker_restarts = counter("worker_restarts", "Worker threads that were replaced")
        self._shadow_agreement = counter(
            "shadow_agreement",
            "Confident answers run on to the last exit, by whether it agreed",
            "model",
            "exit",
            "result",
        )
        self._energy = counter("energy_joules", "Energy spent on answers", "model", "source")
        self._model_info = gauge("model_info", "Models loaded; always 1", "model", "version")
        self._load_failures = counter("model_load_failures", "Bundles refused", "model")
        self._calibration_exit_ratio = gauge(
            "calibration_exit_ratio",
            "Share of the calibration split that the balanced operating point stops at each exit",
            "model",
            "exit",
        )
        for reason in SHED_REASONS.values():
            self._shed.labels(reason)
        for stage in CANCELLED_STAGES:
            self._cancelled.labels(stage)

    def route_known(self, route: str) -> None:
        """Starts a route's series at zero, its failures' too.

        Prometheus sees no increase in a series that starts with the first failure.
        """
        for code in (200, *FAILURES):
            self._requests.labels(route, code)
        self._request_duration.labels(route)

    def model_loaded(self, model: ServedModel) -> None:
        """Starts every series of a model at zero."""
        name = model.manifest.name
        self._model_info.labels(name, model.manifest.version).set(1)
        self._load_failures.labels(name)
        self._energy.labels(name, model.energy_source)
        for outcome in OUTCOMES:
            self._inferences.labels(name, outcome)
        for reason in StopReason:
            self._stops.labels(name, reason)
        for metric in (
            self._queue_wait, self._budget_slack, self._budget_overrun, self._deadline_misses,
            self._depth_limited,
        ):  # fmt: skip
            metric.labels(name)
        for exit in range(1, model.manifest.num_exits):
            for result in AGREEMENT.values():
                self._shadow_agreement.labels(name, exit, result)
        for exit in range(1, model.manifest.num_exits + 1):
            for metric in (
                self._exits, self._answer_duration, self._segment_duration, self._batch_rows,
                self._confidence, self._segment_failures,
            ):  # fmt: skip
                metric.labels(name, exit)

    def model_unloaded(self, model: ServedModel) -> None:
        """What it counted stays; nothing holds on to it."""
        name, version = model.key
        self._model_info.remove(name, version)
        for exit in range(1, model.manifest.num_exits + 1):
            self._segment_disabled.labels(name, exit).set_function(float)

    def default_is(self, model: ServedModel) -> None:
        """This version answers where a request names none."""
        name, _ = model.key
        for exit, share in enumerate(model.default_point.exit_shares, start=1):
            self._calibration_exit_ratio.labels(name, exit).set(share)
            self._segment_disabled.labels(name, exit).set_function(
                partial(is_disabled, model, exit)
            )

    def model_refused(self, name: str) -> None:
        self._load_failures.labels(name).inc()

    def request_ended(self, route: str, code: int, seconds: float) -> None:
        self._requests.labels(route, code).inc()
        self._request_duration.labels(route).observe(seconds)

    def decoded(self, seconds: float) -> None:
        self._decode_duration.observe(seconds)

    def shed(self, reason: str, images: int) -> None:
        self._shed.labels(reason).inc(images)

    def segment_ran(self, model: ServedModel, exit: int, rows: int, seconds: float) -> None:
        """Counts one batch through a segment."""
        labels = model.manifest.name, exit
        self._segment_duration.labels(*labels).observe(seconds)
        self._batch_rows.labels(*labels).observe(rows)

    def graph_failed(self, model: ServedModel, exit: int) -> None:
        self._segment_failures.labels(model.manifest.name, exit).inc()

    def shadow_compared(self, model: ServedModel, exit: int, *, agrees: bool) -> None:
        self._shadow_agreement.labels(model.manifest.name, exit, AGREEMENT[agrees]).inc()

    def worker_restarted(self) -> None:
        self._worker_restarts.inc()

    def head_ran(self, model: ServedModel, exit: int, confidences: list[float]) -> None:
        """Counts the confidence of every row that an exit head ran for."""
        observe = self._confidence.labels(model.manifest.name, exit).observe
        for value in confidences:
            observe(value)

    def watch(
        self, queue_depth: Callable[[], int], in_flight: Callable[[], int], capacity: int
    ) -> None:
        """Reads the load at every scrape."""
        self._queue_capacity.set(capacity)
        self._queue_depth.set_function(queue_depth)
        self._in_flight.set_function(in_flight)

    def answered(
        self, model: ServedModel, budget: Budget, outcome: Outcome, total_s: float
    ) -> None:
        """Counts one answer: its exit, stop reason, duration, budget and energy."""
        name, exit = model.manifest.name, outcome.answer.exit
        self._inferences.labels(name, "answered").inc()
        self._exits.labels(name, exit).inc()
        self._answer_duration.labels(name, exit).observe(total_s)
        self._stops.labels(name, outcome.stop_reason).inc()
        self._queue_wait.labels(name).observe(outcome.queue_s)
        self._energy.labels(name, model.energy_source).inc(outcome.energy_j)
        if is_depth_limited(model, budget, outcome, total_s):
            self._depth_limited.labels(name).inc()
        if budget.latency_s is None:
            return
        if total_s <= budget.latency_s:
            self._budget_slack.labels(name).observe(budget.latency_s - total_s)
        else:
            self._budget_overrun.labels(name).observe(total_s - budget.latency_s)
            self._deadline_misses.labels(name).inc()

    def failed(self, model: ServedModel) -> None:
        self._inferences.labels(model.manifest.name, "failed").inc()

    def meter_found(self, meter: Meter) -> None:
        """Exports what the host's meter counts, to hold the energy of answers against."""
        self.registry.register(MeterCollector(meter))

    def cancelled(self, model: ServedModel, images: int) -> None:
        """Counts admitted images that nobody waits for any more."""
        name = model.manifest.name
        self._inferences.labels(name, "cancelled").inc(images)
        self._stops.labels(name, StopReason.CANCELLED).inc(images)

    def client_gone(self, stage: str) -> None:
        self._cancelled.labels(stage).inc()

    def exposition(self) -> bytes:
        """The registry in Prometheus's text format."""
        return generate_latest(self.registry)


def is_depth_limited(model: ServedModel, budget: Budget, outcome: Outcome, total_s: float) -> bool:
    """Whether the time that an answer waited would have been enough for the next exit.

    Who sets no budget is cut short by load alone.
    """
    if outcome.stop_reason is not StopReason.DEADLINE:
        return False
    left_s = inf if budget.latency_s is None else budget.latency_s - total_s
    return model.costs.next_answer(outcome.answer.exit, 1).latency_s <= left_s + outcome.queue_s


@dataclass(frozen=True, eq=False)
class MeterCollector(Collector):
    """Reads a meter at every scrape; says nothing where it has gone."""

    meter: Meter

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "offramp_meter_joules", "Energy used by the whole host", labels=["source"]
        )
        with suppress(OSError):
            family.add_metric([self.meter.source], self.meter.read_j())
        yield family


def is_disabled(model: ServedModel, exit: int) -> bool:
    now = time.monotonic()
    return any(model.breakers[exit, is_head].is_open(now) for is_head in (False, True))
