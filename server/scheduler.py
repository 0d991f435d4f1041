"""Which jobs run which segment next. Pure: no thread, no clock, no input or output.

Jobs wait per segment, so that a batch re-forms at every exit: jobs that stopped leave it and
newcomers join. A job without an answer goes before one that only wants a better one; among
equals, the earliest deadline goes first.
"""

import heapq
from dataclasses import dataclass, field
from itertools import count
from math import inf

from server.catalog import ServedModel
from server.job import Job

DEFAULT_DEADLINE_S = 1.0
"""Where a job without a deadline stands among those that have one: arrival plus this."""

Rank = tuple[bool, float, int]
Queue = list[tuple[Rank, Job]]


class Overloaded(Exception):
    """There is no slot for another job."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs to run through segment `exit` of `model` together."""

    model: ServedModel
    exit: int
    jobs: list[Job]


@dataclass(slots=True)
class Scheduler:
    """Jobs between segments, at most `max_in_flight` of them, waiting or running."""

    max_in_flight: int
    in_flight: int = 0
    queues: dict[tuple[ServedModel, int], Queue] = field(default_factory=dict)
    _order: "count[int]" = field(default_factory=count)

    @property
    def queue_depth(self) -> int:
        return sum(map(len, self.queues.values()))

    def admit(self, jobs: list[Job], now: float) -> None:
        """Gives every job a slot, or raises Overloaded and gives none."""
        if self.in_flight + len(jobs) > self.max_in_flight:
            raise Overloaded(f"{self.in_flight} of {self.max_in_flight} slots are taken")
        self.in_flight += len(jobs)
        for job in jobs:
            self.wait(job, now)

    def wait(self, job: Job, now: float) -> None:
        """Puts an admitted job in the queue of its next segment."""
        job.waiting_since = now
        deadline = min(job.deadline, job.arrival + DEFAULT_DEADLINE_S)
        rank = (bool(job.answers), deadline, next(self._order))
        heapq.heappush(self.queues.setdefault((job.model, job.exit + 1), []), (rank, job))

    def finish(self, num_jobs: int) -> None:
        """Frees the slots of jobs that have an outcome."""
        self.in_flight -= num_jobs

    def next_batch(self, now: float) -> Batch | None:
        """The most urgent job, with as many others of its segment as help; None if none waits."""
        waiting = [(queue[0][0], key) for key, queue in self.queues.items() if queue]
        if not waiting:
            return None
        _, (model, exit) = min(waiting, key=lambda entry: entry[0])
        queue = self.queues[model, exit]
        rows = best_rows(model, exit, len(queue), slack=queue[0][1].deadline - now)
        return Batch(model, exit, [heapq.heappop(queue)[1] for _ in range(rows)])


def best_rows(model: ServedModel, exit: int, waiting: int, slack: float) -> int:
    """The batch size with the most rows per second that still meets the first job's deadline."""
    costs = model.costs
    best, best_rate = 1, 0.0
    for rows in range(1, min(waiting, costs.max_rows) + 1):
        seconds = costs.segment_s(exit, rows) + costs.head_s(exit, rows)
        if rows > 1 and seconds > slack:
            break
        rate = rows / seconds if seconds > 0 else inf
        if rate > best_rate:
            best, best_rate = rows, rate
    return best
