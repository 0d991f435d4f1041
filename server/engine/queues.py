"""Jobs that wait, by what they wait for: a data structure without decisions."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from math import inf
from typing import NamedTuple

from server.engine.job import Job
from server.zoo.catalog import ServedModel

Place = tuple[float, int, Job]
"""Due, order of arrival: where a job stands in a queue."""


class Step(NamedTuple):
    """What jobs wait for: segment `exit` of `model`, or only its exit head."""

    model: ServedModel
    exit: int
    is_head: bool = False

    def __str__(self) -> str:
        kind = "exit head" if self.is_head else "segment"
        return f"{kind} {self.exit} of {self.model.manifest.name}"

    def seconds(self, rows: int) -> float:
        return self.model.costs.step_s(self.exit, rows, is_head=self.is_head)

    def all_seconds(self, rows: int) -> list[float]:
        """For one row, for two, and so on."""
        return self.model.costs.all_step_s(self.exit, rows, is_head=self.is_head)

    def row_s(self) -> float:
        """Seconds per row where batching saves most."""
        return self.model.costs.best_step_s(self.exit, is_head=self.is_head)


@dataclass(slots=True, eq=False)
class Queue:
    """Those that wait for a first answer from a step, or for a better one; soonest due first."""

    step: Step
    is_first: bool
    places: list[Place] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places)

    def urgency(self) -> tuple[bool, Place]:
        return not self.is_first, self.places[0]

    def due(self, num_jobs: int, since: float = -inf) -> list[float]:
        """When the first of the jobs that are due then or later are due."""
        start = self.num_due_before(since)
        return [due for due, *_ in self.places[start : start + num_jobs]]

    def num_due_before(self, due: float) -> int:
        return bisect_left(self.places, (due,))

    def num_due_by(self, now: float, ahead_s: float) -> int:
        """How many are due `ahead_s` after now, or sooner."""
        return bisect_right(self.places, now, key=lambda place: place[0] - ahead_s)


class Queues:
    """A queue for the first answers and one for the better answers of each step; none is empty."""

    def __init__(self) -> None:
        self._queues: dict[tuple[Step, bool], Queue] = {}
        self._places: dict[Job, tuple[Queue, Place]] = {}
        self._order = count()

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._places)

    def __iter__(self) -> Iterator[Queue]:
        return iter(tuple(self._queues.values()))

    def jobs(self) -> dict[Job, Step]:
        return {job: queue.step for job, (queue, _) in self._places.items()}

    def find(self, step: Step, *, is_first: bool) -> Queue:
        """An empty queue where nobody waits: it is nowhere kept."""
        return self._queues.get((step, is_first)) or Queue(step, is_first)

    def most_urgent(self) -> Queue | None:
        """The queue of the first of all jobs: first answers go before better ones."""
        return min(self._queues.values(), key=Queue.urgency, default=None)

    def put(self, job: Job, step: Step) -> None:
        key = step, not job.answers
        if (queue := self._queues.get(key)) is None:
            queue = self._queues[key] = Queue(*key)
        place = job.due, next(self._order), job
        insort(queue.places, place)
        self._places[job] = queue, place

    def take(self, queue: Queue, num_jobs: int) -> list[Job]:
        """The first jobs of a queue, which leave it."""
        jobs = [job for *_, job in queue.places[:num_jobs]]
        del queue.places[:num_jobs]
        for job in jobs:
            del self._places[job]
        self._forget_if_empty(queue)
        return jobs

    def remove(self, job: Job) -> bool:
        """Takes a job out of its queue, if it is in one."""
        if job not in self._places:
            return False
        queue, place = self._places.pop(job)
        del queue.places[bisect_left(queue.places, place)]
        self._forget_if_empty(queue)
        return True

    def _forget_if_empty(self, queue: Queue) -> None:
        """Keeps no model alive that nobody waits for."""
        if not queue.places:
            del self._queues[queue.step, queue.is_first]
