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
from server.errors import Overloaded
from server.job import Job

DEFAULT_DEADLINE_S = 1.0
"""Where a job without a deadline stands among those that have one: arrival plus this."""

Rank = tuple[bool, float, int]
Queue = list[tuple[Rank, Job]]


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

    def check_room(self, num_jobs: int) -> None:
        """Raises Overloaded where there are not slots enough."""
        if self.in_flight + num_jobs > self.max_in_flight:
            raise Overloaded(f"{self.in_flight} of {self.max_in_flight} slots are taken")

    def admit(self, jobs: list[Job], now: float) -> None:
        """Gives every job a slot, or raises Overloaded and gives none."""
        self.check_room(len(jobs))
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
        candidates = [job for _, job in heapq.nsmallest(model.costs.max_rows, queue)]
        rows = best_rows(model, exit, [job.deadline - now for job in candidates])
        return Batch(model, exit, [heapq.heappop(queue)[1] for _ in range(rows)])


def best_rows(model: ServedModel, exit: int, slacks: list[float]) -> int:
    """How many of the most urgent jobs to run: most rows per second, every deadline kept.

    `slacks` are the seconds that are left to each, most urgent first; one job always runs.
    """
    costs = model.costs
    best, best_rate, tightest = 1, 0.0, inf
    for rows, slack in enumerate(slacks, start=1):
        seconds = costs.segment_s(exit, rows) + costs.head_s(exit, rows)
        tightest = min(tightest, slack)
        if rows > 1 and seconds > tightest:
            break
        rate = rows / seconds if seconds > 0 else inf
        if rate > best_rate:
            best, best_rate = rows, rate
    return best
