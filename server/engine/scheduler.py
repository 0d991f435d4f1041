"""Which jobs run which segment next. Pure: no thread, no clock, no input or output.

Jobs wait per segment. The job that is due first decides which segment runs, and the jobs that wait
there with it come along: survivors of a batch are due before newcomers, so a batch goes on, and
newcomers join where they meet it. Where there is not time for both, first answers go before better
ones. A job that waits until its next answer no longer fits answers with the one it has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from math import inf

from models.bundle.policy import StopReason
from server.engine.debt import Debt
from server.engine.job import Job
from server.engine.model import ServedModel, Step
from server.engine.pace import Pace
from server.engine.queues import Kind, Place, Queue, Queues

MARGIN = 1.1
"""Steps are expected to take this much longer where first answers depend on it. A queue filled to
the brink has to run small batches to meet its deadlines, falls behind, and then meets none."""


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs to run through a step together, from `started_at` to about `ends_at`.

    `wait_s` is how long the first answers that wait will take after it. At `expires_at` the first
    of its jobs answers with what it has, whether the batch has ended or not. An inline batch runs
    on the event loop. The jobs of a pressed one answer here: newcomers lack the time.
    """

    step: Step
    jobs: list[Job]
    started_at: float
    ends_at: float
    wait_s: float = 0.0
    expires_at: float = inf
    is_inline: bool = False
    is_pressed: bool = False
    model: ServedModel = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.jobs[0].demand.model


@dataclass(slots=True)
class Scheduler:
    """Jobs between segments, and the batches that run. `num_lanes` is how many may run at once."""

    num_lanes: int
    pace: Pace = field(default_factory=Pace)
    debt: Debt = field(default_factory=Debt)
    _queues: Queues = field(default_factory=Queues)
    _running: set[Batch] = field(default_factory=set)

    @property
    def num_waiting(self) -> int:
        return len(self._queues)

    @property
    def queue_depth(self) -> int:
        """How many jobs wait, background jobs left out."""
        return sum(len(q) for q in self._queues if q.kind is not Kind.BACKGROUND)

    def wait(self, job: Job, now: float) -> None:
        """Puts an admitted job in the queue of its next segment."""
        self._put(job, job.demand.model.step(job.exit + 1, length=job.length), now)

    def wait_to_answer(self, job: Job, reason: StopReason, now: float) -> None:
        """Puts an admitted job, which must stop, in the queue of the exit head it has reached."""
        job.must_stop = reason
        self._put(job, head_step(job), now)

    def _put(self, job: Job, step: Step, now: float) -> None:
        job.waiting_since = now
        self._queues.put(job, step)

    def leave(self, job: Job) -> bool:
        """Takes a waiting job out of its queue, if it is in one."""
        return self._queues.remove(job)

    def next_batch(self, now: float) -> Batch | None:
        """The job due first with as many others of its step as help, or None.

        None where no job waits, or none for a lane that is free.
        """
        num_idle = self.num_lanes - len(self._running)
        waiting = [q for q in self._queues if num_idle > 0 or q.step.inline_rows]
        queue, is_pressed = self._choose(waiting, now)
        if queue is None:
            return None
        step, candidates = queue.step, self._candidates(queue, is_pressed=is_pressed)
        if not step.inline_rows:
            candidates = candidates[: -(-len(candidates) // num_idle)]  # idle lanes share
        if queue.kind is Kind.BACKGROUND:
            candidates = candidates[: step.background_rows]
        hold_s = self.pace.hold_s if step.inline_rows else inf
        rows = best_rows(step, [due - now for due, *_ in candidates], hold_s)
        batch = Batch(step, [job for *_, job in candidates[:rows]], now, now + step.seconds(rows))
        batch.is_inline = step.inline_rows > 0
        has_newcomers = False
        for job in batch.jobs:
            self._queues.remove(job)
            job.waited(now)
            if job.answers:
                batch.expires_at = min(batch.expires_at, job.due)
            elif job.deadline < inf:
                has_newcomers = True
        if has_newcomers:
            batch.wait_s = self.first_s()
        if queue.kind is not Kind.BACKGROUND and not step.is_head and self.debt.is_owed(now):
            batch.is_pressed = True
            self.debt.repay(rows * step.row_s())
        self._running.add(batch)
        return batch

    def _choose(self, waiting: Sequence[Queue], now: float) -> tuple[Queue | None, bool]:
        """The queue to serve, and whether first answers would be late without it."""
        if len(waiting) == 1 == len(self._queues):
            return waiting[0], False
        asked = [queue for queue in waiting if queue.kind is not Kind.BACKGROUND]
        if not asked:  # and no job waits for a lane that is busy
            is_idle = all(queue.kind is Kind.BACKGROUND for queue in self._queues)
            return (earliest(waiting) if is_idle else None), False
        queue = earliest(asked)
        first = [other for other in asked if other.kind is Kind.FIRST]
        if queue is None or not first:
            return queue, False
        if self._has_time(batch_s(queue), first, now):
            return queue, False
        return earliest(first), True

    def _has_time(self, seconds: float, first: Sequence[Queue], now: float) -> bool:
        """Whether first answers would still be in time after another step of so many seconds.

        Those due first need time for a whole batch: where there is only time for small ones, the
        queue falls behind, and then meets no deadline.
        """
        start = now + self.pace.stretch * seconds
        end = start + self.first_s()
        return all(
            start + self.work_s(queue.step, batch_s(queue)) <= queue.places[0][0]
            and end <= queue.places[-1][0]
            for queue in first
        )

    def _candidates(self, queue: Queue, *, is_pressed: bool) -> list[Place]:
        """The jobs that may run with the queue's first, the earliest due first."""
        most = queue.step.costs.max_rows
        places = queue.places[:most]
        if queue.kind is not Kind.BACKGROUND and not is_pressed:
            other = Kind.BETTER if queue.kind is Kind.FIRST else Kind.FIRST
            if beside := self._queues.places(queue.step, other)[:most]:
                return sorted((*places, *beside))[:most]
        return places

    def first_s(self, due: float = inf) -> float:
        """How long the first answers that wait and are due before then will take, all of them.

        Batches are expected to have the size with the most rows per second.
        """
        return sum(
            queue.num_due_before(due) * self.work_s(queue.step, queue.step.row_s())
            for queue in self._queues
            if queue.kind is Kind.FIRST
        )

    def first_after(self, due: float, most: int) -> list[tuple[float, float]]:
        """When first answers that wait are due, of those after `due`, and seconds between them.

        Of a longer queue about `most`, at even distances, its last one among them.
        """
        found: list[tuple[float, float]] = []
        for queue in self._queues:
            if queue.kind is not Kind.FIRST:
                continue
            num_before = queue.num_due_before(due)
            if (num_after := len(queue) - num_before) > 0:
                stride = -(-num_after // most)
                num_skipped = (num_after - 1) % stride
                rows = chain((num_skipped + 1,), repeat(stride))
                row_s = self.work_s(queue.step, queue.step.row_s())
                places = queue.places[num_before + num_skipped :: stride]
                found += [(place[0], n * row_s) for place, n in zip(places, rows, strict=False)]
        return sorted(found)

    def work_s(self, step: Step, seconds: float) -> float:
        """How long so many seconds of work on a step take.

        Thread lanes share it. On the event loop, edges come between the batches.
        """
        return MARGIN * seconds * (self.pace.stretch if step.inline_rows else 1 / self.num_lanes)

    def free_at(self, now: float) -> float:
        """When the first lane is free."""
        if len(self._running) < self.num_lanes:
            return now
        return max(now, min(batch.ends_at for batch in self._running))

    def done(self, batch: Batch) -> None:
        """The batch has ended, or its lane is lost."""
        self._running.discard(batch)

    def expire(self, now: float) -> list[Job]:
        """The jobs that have waited too long for a better answer, to answer now.

        Those without any answer go on to the exit head of the segment they have run. While
        newcomers lack time, every job that waits for a better answer has waited too long.
        """
        answering = [job for batch in self._running for job in _take_expired(batch, now)]
        for queue, better_s in self._waiting_for_better():
            num_over = queue.num_due_by(now, better_s)
            if queue.kind is Kind.BETTER and self.debt.is_owed(now):
                num_over = len(queue)
                self.debt.repay(num_over * queue.step.row_s())
            for job in self._queues.take(queue, num_over):
                job.waited(now)
                if job.answers:
                    answering.append(job)
                else:
                    self._put(job, head_step(job), now)
        return answering

    def hurry(self, now: float) -> list[Job]:
        """Gives no job more time than until now: each answers at the next exit it can.

        Returns the background jobs that wait without an answer, which leave: there may be hundreds,
        each with a batch of its own to come.
        """
        waiting = self._queues.jobs()
        for job in waiting:
            self.leave(job)
        leaving = [job for job in waiting if job.demand.is_background and not job.answers]
        for job in leaving:
            del waiting[job]
        for job in (*waiting, *(job for batch in self._running for job in batch.jobs)):
            job.deadline = job.due = min(job.due, now)
        for batch in self._running:
            if any(job.answers for job in batch.jobs):
                batch.expires_at = min(batch.expires_at, now)
        for job, step in waiting.items():
            self._queues.put(job, step)
        return leaving

    def next_alarm(self) -> float:
        """When `expire` will have something to do, if nothing else happens; infinity for never."""
        alarms = (queue.places[0][0] - better_s for queue, better_s in self._waiting_for_better())
        return min((*alarms, *(batch.expires_at for batch in self._running)), default=inf)

    def _waiting_for_better(self) -> list[tuple[Queue, float]]:
        """The queues of jobs that could answer now, and seconds to a better answer."""
        return [
            (queue, queue.step.seconds(1))
            for queue in self._queues
            if queue.step.exit > 1 and not queue.step.is_head
        ]


def head_step(job: Job) -> Step:
    """The exit head that a job has reached."""
    return job.demand.model.step(job.exit, is_head=True, length=job.length)


def batch_s(queue: Queue) -> float:
    """What a batch of as many jobs of the queue as may run together takes."""
    step = queue.step
    most = step.inline_rows or step.costs.max_rows
    return step.seconds(min(len(queue), most))


def earliest(queues: Iterable[Queue]) -> Queue | None:
    """The queue of the job that is due first; of equals, of the one that has waited longest."""
    return min(queues, key=lambda queue: queue.places[0], default=None)


def _take_expired(batch: Batch, now: float) -> list[Job]:
    """The jobs of a running batch that have an answer and must give it now."""
    if now < batch.expires_at:
        return []
    expiries = [(job, job.due) for job in batch.jobs if job.answers and not job.is_over]
    batch.expires_at = min((at_s for _, at_s in expiries if at_s > now), default=inf)
    return [job for job, at_s in expiries if at_s <= now]


def best_rows(step: Step, slacks: Sequence[float], most_s: float = inf) -> int:
    """How many of the most urgent jobs to run: most rows per second, every deadline kept.

    `slacks` are the seconds that are left to each, most urgent first, and `most_s` what the batch
    may take; one job always runs. A job that is late even in a batch of one limits nothing.
    """
    most = min(len(slacks), step.inline_rows or len(slacks))
    if most == 1:
        return 1
    all_s = step.all_seconds(most)
    alone_s = all_s[0]
    best, best_rate, tightest = 1, 1 / alone_s if alone_s > 0 else inf, most_s
    for rows, (seconds, slack) in enumerate(zip(all_s, slacks, strict=False), start=1):
        if slack >= alone_s:
            tightest = min(tightest, slack)
        if seconds > tightest:
            break
        if rows > best_rate * seconds:
            best, best_rate = rows, rows / seconds
    return best
