"""Every metric of the server, and the only place that knows their names."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf, isnan
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.platform_collector import PlatformCollector

from models.bundle.bundle import sha256
from models.bundle.energy import Meter, joules
from models.bundle.policy import StopReason
from server.engine.job import Budget, Outcome
from server.engine.model import ServedModel
from server.errors import BodiesTooLarge, Draining, Infeasible, Overloaded, Unavailable
from server.telemetry.exporting import Members, Sums
from server.telemetry.ledger import Ledger, later
from server.telemetry.memory import Key, Memory, read
from server.telemetry.series import Common, Counter, Gauge, Histogram, Level
from server.telemetry.statistics import SIZE, Statistics, Summary

SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)
FAILURES = (500, 503)
GRAPHS = {"name", "version", "input", "segments", "exit_heads"}
"""Of a manifest: what decides what a version's sessions compute."""
SHED_REASONS: dict[type[Exception], str] = {
    Overloaded: "overload",
    BodiesTooLarge: "overload",
    Infeasible: "infeasible",
    Unavailable: "unavailable",
    Draining: "draining",
}


def shed_reason(error: Exception) -> str:
    """The reason counted for a refusal."""
    return next(SHED_REASONS[kind] for kind in type(error).__mro__ if kind in SHED_REASONS)


AGREEMENT = {True: "agree", False: "differ"}
OUTCOMES = ("answered", "failed", "cancelled")
CANCELLED_STAGES = ("body", "decode", "queue", "segment", "response")
"""What was going on when a client went away; "segment" from the first segment that ran."""


class Metrics:
    """Metrics in a registry of their own; known series start at zero."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, memory: Memory | None = None, fds: Sequence[int] = ()) -> None:
        """Counts in `memory`, and exports the sum with those of the other processes, if any."""
        self._memory = memory = memory or Memory()
        self._fds = fds or (memory.fd,)
        self._statistics: WeakKeyDictionary[ServedModel, Statistics] = WeakKeyDictionary()
        self._sums = Sums(self._fds, self.refresh)
        self._watched: dict[Level, Callable[[], float]] = {}
        self.registry = registry = CollectorRegistry()
        self.ledger = Ledger()
        registry.register(self.ledger)
        registry.register(self._sums)
        registry.register(Members(self._fds))
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return self._sums.added(Counter(memory, f"offramp_{name}", text, labels))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return self._sums.added(Gauge(memory, f"offramp_{name}", text, labels))

        def common(name: str, text: str, *labels: str) -> Common:
            return self._sums.added(Common(memory, f"offramp_{name}", text, labels))

        def histogram(
            name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS
        ) -> Histogram:
            return self._sums.added(Histogram(memory, f"offramp_{name}", text, labels, buckets))

        self._requests = counter("requests", "Requests answered", "route", "code")
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
        ).labels()
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
        self._queue_depth = gauge("queue_depth", "Images waiting for a worker").labels()
        self._queue_capacity = gauge(
            "queue_capacity", "Images that may be admitted at once"
        ).labels()
        self._in_flight = gauge("in_flight", "Images admitted and not yet answered").labels()
        self._segment_failures = counter(
            "segment_failures", "Batches that a segment or its exit head failed", "model", "exit"
        )
        self._segment_disabled = common(
            "segment_disabled", "1 while a segment or its exit head is out of use", "model", "exit"
        )
        self._worker_restarts = counter(
            "worker_restarts", "Worker threads that were replaced"
        ).labels()
        self._shadow_agreement = counter(
            "shadow_agreement",
            "Confident answers run on to the last exit, by whether it agreed",
            "model",
            "exit",
            "result",
        )
        self._energy = counter("energy_joules", "Energy spent on answers", "model", "source")
        self._model_info = common("model_info", "Models loaded; always 1", "model", "version")
        self._load_failures = counter("model_load_failures", "Bundles refused", "model")
        self._calibration_exit_ratio = common(
            "calibration_exit_ratio",
            "Share of the calibration split that the balanced operating point stops at each exit",
            "model",
            "exit",
        )
        self._meter_joules = counter("meter_joules", "Energy used by the whole host", "source")
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
        """Starts every series of a model at zero, unless it is there already."""
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
            self._watch(self._segment_disabled.labels(name, exit), float)

    def default_is(self, model: ServedModel) -> None:
        """This version answers where a request names none."""
        name, _ = model.key
        for exit, share in enumerate(model.default_point.exit_shares, start=1):
            self._calibration_exit_ratio.labels(name, exit).set(share)
            self._watch(
                self._segment_disabled.labels(name, exit), partial(is_disabled, model, exit)
            )

    def model_refused(self, name: str) -> None:
        self._load_failures.labels(name).inc()

    @later
    def request_ended(
        self, route: str, code: int, seconds: float, *, is_timed: bool = True
    ) -> None:
        """Counts a request, and how long it took if it is timed."""
        self._requests.labels(route, code).inc()
        if is_timed:
            self._request_duration.labels(route).observe(seconds)

    @later
    def decoded(self, seconds: float) -> None:
        self._decode_duration.observe(seconds)

    def shed(self, reason: str, images: int) -> None:
        self._shed.labels(reason).inc(images)

    @later
    def batch_ran(
        self,
        model: ServedModel,
        exit: int,
        rows: int,
        seconds: float | None,
        confidences: Sequence[float],
    ) -> None:
        """Counts one batch: `seconds` of its segment, if that ran, and what the exit head said."""
        labels = model.manifest.name, exit
        if seconds is not None:
            self._segment_duration.labels(*labels).observe(seconds)
            self._batch_rows.labels(*labels).observe(rows)
            self._statistics_of(model).segment_ran(rows, seconds)
        observe = self._confidence.labels(*labels).observe
        for value in confidences:
            observe(value)

    def _statistics_of(self, model: ServedModel) -> Statistics:
        if (kept := self._statistics.get(model)) is None:
            key, memory = statistics_key(model), self._memory
            kept = Statistics(lambda what: memory.take((*key, what), SIZE))
            self._statistics[model] = kept
        return kept

    def graph_failed(self, model: ServedModel, exit: int) -> None:
        self._segment_failures.labels(model.manifest.name, exit).inc()

    def shadow_compared(self, model: ServedModel, exit: int, *, agrees: bool) -> None:
        self._shadow_agreement.labels(model.manifest.name, exit, AGREEMENT[agrees]).inc()

    def lane_replaced(self) -> None:
        self._worker_restarts.inc()

    def watch(
        self, queue_depth: Callable[[], int], in_flight: Callable[[], int], capacity: int
    ) -> None:
        """Reads the load whenever gauges are refreshed."""
        self._queue_capacity.set(capacity)
        self._watch(self._queue_depth, queue_depth)
        self._watch(self._in_flight, in_flight)

    def refresh(self) -> None:
        """Adds up what is written down, and sets every gauge that is read somewhere else."""
        self.ledger.settle()
        for level, value_of in tuple(self._watched.items()):
            level.set(value_of())

    def _watch(self, level: Level, value_of: Callable[[], float]) -> None:
        self._watched[level] = value_of
        level.set(value_of())

    @later
    def served(
        self,
        model: ServedModel,
        budget: Budget,
        outcomes: Sequence[Outcome],
        num_failed: int,
        total_s: float,
        *,
        is_timed: bool = True,
    ) -> None:
        """Counts a request whose rows have all ended, `total_s` after it arrived.

        What it waited and took is counted only if it is timed: in the background that says nothing.
        """
        for outcome in outcomes:
            self._count_answer(model, budget, outcome, total_s)
            if is_timed:
                labels = model.manifest.name, outcome.answer.exit
                self._answer_duration.labels(*labels).observe(total_s)
                self._queue_wait.labels(model.manifest.name).observe(outcome.queue_s)
        if num_failed:
            self._inferences.labels(model.manifest.name, "failed").inc(num_failed)
        statistics = self._statistics_of(model)
        statistics.request_ended(is_success=not num_failed, total_s=total_s)

    def _count_answer(
        self, model: ServedModel, budget: Budget, outcome: Outcome, total_s: float
    ) -> None:
        """Counts one answer: its exit, stop reason, budget and energy."""
        name, exit = model.manifest.name, outcome.answer.exit
        self._statistics_of(model).answered(outcome.queue_s, outcome.compute_s)
        self._inferences.labels(name, "answered").inc()
        self._exits.labels(name, exit).inc()
        self._stops.labels(name, outcome.stop_reason).inc()
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

    def meter_found(self, meter: Meter) -> None:
        """Exports what the host's meter counts, to hold the energy of answers against.

        The first of several processes does that for all: the meter is the host's.
        """
        if self._memory.fd == self._fds[0]:
            numbers = self._memory.take((self._meter_joules.name, meter.source), 1)
            before_j = 0.0 if isnan(numbers[0]) else numbers[0]
            self._watch(Level(numbers), lambda: before_j + joules(meter))

    def statistics_begin(self, model: ServedModel) -> None:
        """Forgets what was counted of such a version before: it is loaded anew."""
        self.ledger.settle()
        for numbers in self._memory.matching(statistics_key(model)):
            for place in range(len(numbers)):
                numbers[place] = 0.0

    def statistics(self, model: ServedModel) -> Summary:
        """What all processes did with a version since it was loaded."""
        self.ledger.settle()
        kept = statistics_key(model)
        return Summary(
            (what, numbers)
            for fd in self._fds
            for (*key, what), numbers in read(fd).items()
            if tuple(key) == kept
        )

    def cancelled(self, model: ServedModel, images: int) -> None:
        """Counts admitted images whose client went away."""
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

    A request without a budget is cut short by load alone.
    """
    if outcome.stop_reason is not StopReason.DEADLINE:
        return False
    left_s = inf if budget.latency_s is None else budget.latency_s - total_s
    next_answer = model.step(1, length=outcome.length).costs.next_answer(outcome.answer.exit, 1)
    return next_answer.latency_s <= left_s + outcome.queue_s


def is_disabled(model: ServedModel, exit: int) -> bool:
    now = time.monotonic()
    return any(model.is_out(exit, now, is_head=is_head) for is_head in (False, True))


def statistics_key(model: ServedModel) -> Key:
    """Versions that differ in a graph have statistics of their own."""
    return "statistics", sha256(model.manifest.model_dump_json(include=GRAPHS).encode())
