"""Expected cost of the next step: a cost profile, corrected by what is seen while running."""

import numpy as np

from models.bundle.cost_profile import CostProfile, GraphCost
from models.bundle.policy import Spend

RISE, FALL = 0.5, 0.02
"""Shares of the gap by which an expectation follows a slower, and a faster, observation."""
LARGEST_STEP = 2.0
"""An observation counts as at most this much of what was expected: it may be a stall."""
SMALLEST, LARGEST = 0.5, 50.0
"""Of what was expected at first."""


class Expectation:
    """A number that follows what is observed, up fast and down slowly: a high quantile of it."""

    def __init__(self, initial: float, fall: float = FALL) -> None:
        self.initial = self.value = initial
        self.fall = fall

    def observe(self, seen: float) -> None:
        gap = min(seen, LARGEST_STEP * self.value) - self.value
        value = self.value + (RISE if gap > 0 else self.fall) * gap
        self.value = min(max(value, SMALLEST * self.initial), LARGEST * self.initial)


class Costs:
    """Looks up what a segment or an exit head is expected to take at a batch size.

    A high quantile of the measured times, interpolated between the profile's batch sizes and
    extended in proportion beyond the largest, times the graph's correction. A batch takes
    `overhead_s` beyond its graphs: handing it out and back, and waiting for a core. Energy is the
    time a core is busy times its watts, shared by the rows of the batch.
    """

    def __init__(self, profile: CostProfile, overhead_s: float = 0.0) -> None:
        self.watts, self.max_rows = profile.watts, profile.batch_sizes[-1]
        self._overhead = Expectation(overhead_s)
        self._segments = [_Graph(cost, profile.batch_sizes) for cost in profile.segments]
        self._heads = [_Graph(cost, profile.batch_sizes) for cost in profile.exit_heads]
        self._first_s = self.step_s(1, 1, is_head=False)  # before anything is learned
        self._first_row_s = self.best_step_s(1, is_head=False)
        graphs = *self._segments, self._heads[-1]
        self.full_s = sum(graph.seconds(1) for graph in graphs)
        """One row through every segment and the last head, before anything is learned."""

    @property
    def overhead_s(self) -> float:
        return self._overhead.value

    def segment_s(self, exit: int, rows: int) -> float:
        return self._segments[exit - 1].seconds(rows)

    def head_s(self, exit: int, rows: int) -> float:
        return self._heads[exit - 1].seconds(rows)

    def most_rows_within(self, exit: int, seconds: float) -> int:
        """The largest batch that was profiled to take no longer, segment and head; 0 for none."""
        graphs = self._segments[exit - 1], self._heads[exit - 1]
        times = (sum(graph.profiled(n) for graph in graphs) for n in range(1, self.max_rows + 1))
        return sum(1 for time_s in times if time_s <= seconds)

    def step_s(self, exit: int, rows: int, *, is_head: bool) -> float:
        """A batch through exit head `exit`, after its segment unless the head runs alone."""
        seconds = self._overhead.value + self._heads[exit - 1].seconds(rows)
        return seconds if is_head else seconds + self._segments[exit - 1].seconds(rows)

    def all_step_s(self, exit: int, rows: int, *, is_head: bool) -> list[float]:
        """The same for 1 row to as many as given, of at most `max_rows`."""
        seconds = self._heads[exit - 1].all_seconds(rows)
        if not is_head:
            segment_s = self._segments[exit - 1].all_seconds(rows)
            seconds = [head + segment for head, segment in zip(seconds, segment_s, strict=True)]
        return [self._overhead.value + graphs for graphs in seconds]

    def best_step_s(self, exit: int, *, is_head: bool) -> float:
        """A step's seconds per row where batching saves most."""
        seconds = self.overhead_s / self.max_rows + self._heads[exit - 1].best()
        return seconds if is_head else seconds + self._segments[exit - 1].best()

    def batch_s(self, exit: int, rows: int) -> float:
        """Segment and head for the batch, of at most `rows`, with the most rows per second."""
        sizes = range(1, min(rows, self.max_rows) + 1)
        best = min(sizes, key=lambda n: self.step_s(exit, n, is_head=False) / n)
        return self.step_s(exit, best, is_head=False)

    def next_answer(self, exit: int, rows: int) -> Spend:
        """What a job in a batch of `rows` would spend to get from `exit` to the answer after it."""
        seconds = self.step_s(exit + 1, rows, is_head=False)
        return Spend(seconds, self.energy_j(seconds - self.overhead_s, rows))

    def idle_s(self, rows: int, workers: int) -> float:
        """First answers for so many rows from a server that has nothing else to do."""
        return max(self._first_s, rows * self._first_row_s / workers)

    def energy_j(self, busy_s: float, rows: int) -> float:
        """One row's share of the energy of `busy_s` seconds on one core."""
        return busy_s * self.watts / rows

    def segment_took(self, exit: int, rows: int, seconds: float) -> None:
        self._segments[exit - 1].observe(rows, seconds)

    def head_took(self, exit: int, rows: int, seconds: float) -> None:
        self._heads[exit - 1].observe(rows, seconds)

    def batch_took(self, seconds: float, core_s: float) -> None:
        """Learns from a batch that was in hand for `seconds`, of which its graphs took `core_s`."""
        self._overhead.observe(seconds - core_s)


class _Graph:
    """One graph's seconds by rows, never fewer for more, times a correction."""

    def __init__(self, cost: GraphCost, batch_sizes: tuple[int, ...]) -> None:
        self._max_rows = batch_sizes[-1]
        rows, rising = np.arange(self._max_rows + 1), np.maximum.accumulate(cost.p95_s)
        self._table: list[float] = np.interp(rows, batch_sizes, rising).tolist()
        self._best = min(s / n for n, s in enumerate(self._table[1:], start=1))
        self._correction = Expectation(1.0)

    def seconds(self, rows: int) -> float:
        return self._correction.value * self.profiled(rows)

    def all_seconds(self, rows: int) -> list[float]:
        return [self._correction.value * seconds for seconds in self._table[1 : rows + 1]]

    def best(self) -> float:
        return self._correction.value * self._best

    def observe(self, rows: int, seconds: float) -> None:
        if (profiled := self.profiled(rows)) > 0:
            self._correction.observe(seconds / profiled)

    def profiled(self, rows: int) -> float:
        """Without the correction."""
        if rows <= self._max_rows:
            return self._table[rows]
        return self._table[-1] * rows / self._max_rows
