"""What batches are counted as: one run of a segment, or of its exit head, for rows together."""

from collections.abc import Sequence

from server.engine.model import ServedModel
from server.telemetry.ledger import later
from server.telemetry.memory import Memory
from server.telemetry.statistics import VersionStatistics

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)
AGREEMENT = {True: "agree", False: "differ"}


class BatchMetrics(VersionStatistics):
    """Batches by model and exit, with what their exit heads said."""

    def __init__(self, memory: Memory, fds: Sequence[int]) -> None:
        super().__init__(memory, fds)
        self._segment_duration = self._histogram(
            "segment_duration_seconds",
            "Core time of one run of a segment for a batch",
            "model",
            "exit",
        )
        self._batch_rows = self._histogram(
            "batch_rows", "Images run through a segment together", "model", "exit", buckets=ROWS
        )
        self._confidence = self._histogram(
            "confidence", "Confidence at each exit head that ran", "model", "exit", buckets=SHARES
        )
        self._segment_failures = self._counter(
            "segment_failures", "Batches that a segment or its exit head failed", "model", "exit"
        )
        self._shadow_agreement = self._counter(
            "shadow_agreement",
            "Confident answers run on to the last exit, by whether it agreed",
            "model",
            "exit",
            "result",
        )

    def model_loaded(self, model: ServedModel) -> None:
        super().model_loaded(model)
        name, num_exits = model.manifest.name, model.manifest.num_exits
        for exit in range(1, num_exits + 1):
            for metric in (
                self._segment_duration, self._batch_rows, self._confidence, self._segment_failures,
            ):  # fmt: skip
                metric.labels(name, exit)
        for exit in range(1, num_exits):
            for result in AGREEMENT.values():
                self._shadow_agreement.labels(name, exit, result)

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

    def graph_failed(self, model: ServedModel, exit: int) -> None:
        self._segment_failures.labels(model.manifest.name, exit).inc()

    def shadow_compared(self, model: ServedModel, exit: int, *, agrees: bool) -> None:
        self._shadow_agreement.labels(model.manifest.name, exit, AGREEMENT[agrees]).inc()
