"""What one served version of a model has done, for the protocol's statistics extension."""

import threading
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """How often something was done, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class Statistics:
    """`success` and `fail` count requests, `queue` and `compute` images, `batches` segment runs.

    Workers count the segments, the event loop the rest.
    """

    success: Tally = field(default_factory=Tally)
    fail: Tally = field(default_factory=Tally)
    queue: Tally = field(default_factory=Tally)
    compute: Tally = field(default_factory=Tally)
    batches: dict[int, Tally] = field(default_factory=dict)
    last_inference: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def segment_ran(self, rows: int, seconds: float) -> None:
        with self._lock:
            self.batches.setdefault(rows, Tally()).add(1, seconds)

    def request_ended(self, *, is_success: bool, total_s: float) -> None:
        (self.success if is_success else self.fail).add(1, total_s)
        self.last_inference = time.time()

    def answered(self, queue_s: float, compute_s: float) -> None:
        """Counts one image."""
        self.queue.add(1, queue_s)
        self.compute.add(1, compute_s)

    def batch_sizes(self) -> list[tuple[int, Tally]]:
        """The runs of segments by batch size, smallest first."""
        with self._lock:
            return sorted(self.batches.items())
