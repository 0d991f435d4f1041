"""What one version of a model has done, for the protocol's statistics extension."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from models.bundle.bundle import sha256
from server.engine.model import ServedModel
from server.telemetry.families import Families
from server.telemetry.memory import Key, Memory, read

Take = Callable[[str], "memoryview[float]"]
COUNT, SECONDS, LATEST = range(3)
SIZE = 3
"""How often something was done, how long that took in all, when it was done last."""
GRAPHS = {"name", "version", "input", "segments", "exit_heads"}
"""Of a manifest: what decides what a version's sessions compute."""


@dataclass(slots=True)
class Tally:
    """How often something was done, how long it took in all, and when it was done last."""

    count: int = 0
    seconds: float = 0.0
    latest: float = 0.0


class Statistics:
    """`success`, `fail` count requests, `queue`, `compute` rows, batch sizes segment runs.

    `take` gives the numbers of a tally.
    """

    def __init__(self, take: Take) -> None:
        self._take = take
        self._numbers: dict[str | int, memoryview[float]] = {}

    def segment_ran(self, rows: int, seconds: float) -> None:
        self._add(rows, seconds)

    def request_ended(self, *, is_success: bool, total_s: float) -> None:
        self._add("success" if is_success else "fail", total_s)[LATEST] = time.time()

    def answered(self, queue_s: float, compute_s: float) -> None:
        """Counts one row."""
        self._add("queue", queue_s)
        self._add("compute", compute_s)

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


class VersionStatistics(Families):
    """The statistics of every version that is served. Prometheus does not get them."""

    def __init__(self, memory: Memory, fds: Sequence[int]) -> None:
        super().__init__(memory, fds)
        self._statistics: WeakKeyDictionary[ServedModel, Statistics] = WeakKeyDictionary()

    def _statistics_of(self, model: ServedModel) -> Statistics:
        if (kept := self._statistics.get(model)) is None:
            key, memory = statistics_key(model), self._memory
            kept = Statistics(lambda what: memory.take((*key, what), SIZE))
            self._statistics[model] = kept
        return kept

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


def statistics_key(model: ServedModel) -> Key:
    """Versions that differ in a graph have statistics of their own."""
    return "statistics", sha256(model.manifest.model_dump_json(include=GRAPHS).encode())
