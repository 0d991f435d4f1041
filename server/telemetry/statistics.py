"""What one version of a model has done, for the protocol's statistics extension."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Take = Callable[[str], "memoryview[float]"]
COUNT, SECONDS, LATEST = range(3)
SIZE = 3
"""How often something was done, how long that took in all, when it was done last."""


@dataclass(slots=True)
class Tally:
    """How often something was done, how long it took in all, and when it was done last."""

    count: int = 0
    seconds: float = 0.0
    latest: float = 0.0


def in_private(what: str) -> "memoryview[float]":  # noqa: ARG001
    """Numbers of this process alone."""
    return memoryview(bytearray(8 * SIZE)).cast("d")


class Statistics:
    """`success`, `fail` count requests, `queue`, `compute` images, batch sizes segment runs."""

    def __init__(self) -> None:
        self._take: Take = in_private
        self._numbers: dict[str | int, memoryview[float]] = {}

    def segment_ran(self, rows: int, seconds: float) -> None:
        self._add(rows, seconds)

    def request_ended(self, *, is_success: bool, total_s: float) -> None:
        self._add("success" if is_success else "fail", total_s)[LATEST] = time.time()

    def answered(self, queue_s: float, compute_s: float) -> None:
        """Counts one image."""
        self._add("queue", queue_s)
        self._add("compute", compute_s)

    def move(self, take: Take) -> None:
        """Counts in other numbers from now on, beginning with what was counted so far."""
        self._take, old = take, self._numbers
        self._numbers = {}
        for what, numbers in old.items():
            self._numbers[what] = new = take(str(what))
            new[COUNT] += numbers[COUNT]
            new[SECONDS] += numbers[SECONDS]
            new[LATEST] = max(new[LATEST], numbers[LATEST])

    def _add(self, what: str | int, seconds: float) -> "memoryview[float]":
        numbers = self._numbers.get(what)
        if numbers is None:
            numbers = self._numbers[what] = self._take(str(what))
        numbers[COUNT] += 1
        numbers[SECONDS] += seconds
        return numbers


class Summary:
    """What several processes counted, together."""

    def __init__(self, counted: Iterable[tuple[str, "memoryview[float]"]]) -> None:
        self._tallies: dict[str, Tally] = {}
        for what, (count, seconds, latest) in counted:
            tally = self._tallies.setdefault(what, Tally())
            tally.count += int(count)
            tally.seconds += seconds
            tally.latest = max(tally.latest, latest)

    def of(self, what: str) -> Tally:
        return self._tallies.get(what, Tally())

    @property
    def last_inference(self) -> float:
        """When a request last ended; 0 where none has."""
        return max(self.of("success").latest, self.of("fail").latest)

    def batch_sizes(self) -> list[tuple[int, Tally]]:
        """The runs of segments by batch size, smallest first."""
        sizes = sorted(int(what) for what in self._tallies if what.isdigit())
        return [(rows, self._tallies[str(rows)]) for rows in sizes]
