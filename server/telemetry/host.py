"""What waits and runs in this process, and what the host's meter says."""

from collections.abc import Callable, Sequence
from math import isnan

from models.bundle.energy import Meter, joules
from server.telemetry.families import Families
from server.telemetry.memory import Memory
from server.telemetry.series import Level


class HostMetrics(Families):
    """The load of the process, its lanes, and the energy of its host."""

    def __init__(self, memory: Memory, fds: Sequence[int]) -> None:
        super().__init__(memory, fds)
        self._queue_depth = self._gauge("queue_depth", "Images waiting for a worker").labels()
        self._queue_capacity = self._gauge(
            "queue_capacity", "Images that may be admitted at once"
        ).labels()
        self._in_flight = self._gauge("in_flight", "Images admitted and not yet answered").labels()
        self._worker_restarts = self._counter(
            "worker_restarts", "Worker threads that were replaced"
        ).labels()
        self._meter_joules = self._counter(
            "meter_joules", "Energy used by the whole host", "source"
        )

    def watch(
        self, queue_depth: Callable[[], int], in_flight: Callable[[], int], capacity: int
    ) -> None:
        """Reads the load whenever gauges are refreshed."""
        self._queue_capacity.set(capacity)
        self._watch(self._queue_depth, queue_depth)
        self._watch(self._in_flight, in_flight)

    def lane_replaced(self) -> None:
        self._worker_restarts.inc()

    def meter_found(self, meter: Meter) -> None:
        """Exports what the host's meter counts, to hold the energy of answers against.

        The first of several processes does that for all: the meter is the host's.
        """
        if self._memory.fd == self._fds[0]:
            numbers = self._memory.take((self._meter_joules.name, meter.source), 1)
            before_j = 0.0 if isnan(numbers[0]) else numbers[0]
            self._watch(Level(numbers), lambda: before_j + joules(meter))
