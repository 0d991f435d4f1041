"""Expected cost of the next step, read from a cost profile."""

import numpy as np

from models.bundle.manifest import CostProfile, GraphCost
from models.bundle.policy import Spend


class Costs:
    """Looks up what a segment or an exit head is expected to take at a batch size.

    A high quantile of the measured times, interpolated between the profile's batch sizes and
    extended in proportion beyond the largest. Energy is the time a core is busy times its watts,
    shared by the rows of the batch.
    """

    def __init__(self, profile: CostProfile) -> None:
        self.watts = profile.watts
        self.max_rows = profile.batch_sizes[-1]
        rows = np.arange(self.max_rows + 1)

        def table(costs: tuple[GraphCost, ...]) -> list[list[float]]:
            return [np.interp(rows, profile.batch_sizes, c.p95_s).tolist() for c in costs]

        self._segments, self._heads = table(profile.segments), table(profile.exit_heads)

    def segment_s(self, exit: int, rows: int) -> float:
        return self._at(self._segments[exit - 1], rows)

    def head_s(self, exit: int, rows: int) -> float:
        return self._at(self._heads[exit - 1], rows)

    def next_answer(self, exit: int, rows: int) -> Spend:
        """What a job in a batch of `rows` would spend to get from `exit` to the answer after it."""
        seconds = self.segment_s(exit + 1, rows) + self.head_s(exit + 1, rows)
        return Spend(seconds, self.energy_j(seconds, rows))

    def energy_j(self, busy_s: float, rows: int) -> float:
        """One row's share of the energy of `busy_s` seconds on one core."""
        return busy_s * self.watts / rows

    def _at(self, table: list[float], rows: int) -> float:
        if rows <= self.max_rows:
            return table[rows]
        return table[-1] * rows / self.max_rows
