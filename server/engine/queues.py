"""Jobs that wait, by what they wait for: a data structure without decisions."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count

from server.engine.job import Job
from server.engine.model import Step

Place = tuple[float, int, Job]
"""Due, order of arrival: where a job stands in a queue."""


class Kind(IntEnum):
    """Why a job waits: for its first answer, a better one, or idle time."""

    FIRST = 0
    BETTER = 1
    BACKGROUND = 2

    @classmethod
    def of(cls, job: Job) -> "Kind":
        if job.demand.is_background:
            return cls.BACKGROUND
        return cls.BETTER if job.answers else cls.FIRST


@dataclass(slots=True, eq=False)
class Queue:
    """The jobs of one kind that wait for a step, the earliest due first."""

    step: Step
    kind: Kind
    places: list[Place] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places)

    def num_due_before(self, due: float) -> int:
        return bisect_left(self.places, (due,))

    def num_due_by(self, now: float, ahead_s: float) -> int:
        """How many are due `ahead_s` after now, or sooner."""
        return bisect_right(self.places, now, key=lambda place: place[0] - ahead_s)


class Queues:
    """One queue for each step and kind that jobs wait for; none is empty."""

    def __init__(self) -> None:
        self._queues: dict[tuple[Step, Kind], Queue] = {}
        self._places: dict[Job, tuple[Queue, Place]] = {}
        self._order = count()

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._places)

    def __iter__(self) -> Iterator[Queue]:
        return iter(tuple(self._queues.values()))

    def jobs(self) -> dict[Job, Step]:
        return {job: queue.step for job, (queue, _) in self._places.items()}

    def places(self, step: Step, kind: Kind) -> Sequence[Place]:
        """Where such jobs stand; empty where none wait."""
        queue = self._queues.get((step, kind))
        return () if queue is None else queue.places

    def put(self, job: Job, step: Step) -> None:
        key = step, Kind.of(job)
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
        """Drops empty queues, which would keep unloaded models alive."""
        if not queue.places:
            del self._queues[queue.step, queue.kind]
