"""Jobs that wait, by what they wait for: a data structure without decisions."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count
from typing import NamedTuple

from models.bundle.costs import Costs
from server.engine.job import Job
from server.engine.model import ServedModel

Place = tuple[float, int, Job]
"""Due, order of arrival: where a job stands in a queue."""


class Step(NamedTuple):
    """A step that jobs wait for: segment `exit` of `model`, or only its exit head.

    Jobs of one step can share a batch: all are of one length bucket, 0 where rows have one size.
    """

    model: ServedModel
    exit: int
    is_head: bool = False
    length: int = 0

    def __str__(self) -> str:
        kind = "exit head" if self.is_head else "segment"
        return f"{kind} {self.exit} of {self.model.manifest.name}"

    @property
    def costs(self) -> Costs:
        return self.model.costs_of(self.length)

    def seconds(self, rows: int) -> float:
        return self.costs.step_s(self.exit, rows, is_head=self.is_head)

    def all_seconds(self, rows: int) -> list[float]:
        """For one row, for two, and so on."""
        return self.costs.all_step_s(self.exit, rows, is_head=self.is_head)

    @property
    def inline_rows(self) -> int:
        """How many rows may run on the event loop, 0 where none may."""
        return self.model.inline_rows_of(self.length)[self.exit - 1]

    def row_s(self) -> float:
        """Seconds per row at the batch size with the most rows per second."""
        return self.costs.best_step_s(self.exit, is_head=self.is_head)


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

    def find(self, step: Step, kind: Kind) -> Queue:
        """The queue of such jobs; a new empty one, which is not kept, where none wait."""
        return self._queues.get((step, kind)) or Queue(step, kind)

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
