"""Which jobs run which segment next. Pure: no thread, no clock, no input or output.

Jobs wait per segment, so that a batch re-forms at every exit: jobs that stopped leave it and
newcomers join. A job without an answer goes before one that only wants a better one; among
equals, the earliest deadline goes first. A newcomer is refused where its first answer, or that of
somebody admitted before, would come too late. A job that waits until the next answer no longer
fits answers with the one it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from models.bundle.costs import DELIVERY_S
from server.engine.job import Demand, Job
from server.engine.queues import Queue, Queues, Step
from server.errors import Overloaded, Unavailable
from server.zoo.catalog import ServedModel

DEFAULT_DEADLINE_S = 1.0
"""When a job without a latency budget settles for the answer it has, if it still waits."""
PATIENCE = 20.0
"""The same in multiples of the whole cost of a request's images, for slow networks."""
MARGIN = 1.1
"""Admission counts on steps that take this much longer: a queue filled to the brink has to run
small batches to meet its deadlines, falls behind, and then meets none."""
NUM_BEHIND = 50
"""How many of those that a newcomer would go before are asked whether they can wait."""


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs to run through a step together, from `started_at` to about `ends_at`.

    `wait_s` is how long a first answer would then still have to wait for a worker. At `expires_at`
    the first of the jobs answers with what it has, whether the batch has ended or not. `core_s` is
    what its graphs have taken so far.
    """

    step: Step
    jobs: list[Job]
    started_at: float
    ends_at: float
    wait_s: float = 0.0
    expires_at: float = inf
    core_s: float = 0.0


@dataclass(slots=True)
class Scheduler:
    """Jobs between segments, at most `max_in_flight` of them, waiting or running."""

    max_in_flight: int
    num_workers: int
    in_flight: int = 0
    _queues: Queues = field(default_factory=Queues)
    _running: set[Batch] = field(default_factory=set)

    @property
    def queue_depth(self) -> int:
        return len(self._queues)

    def check(self, demand: Demand, num_images: int, now: float) -> float:
        """When so many jobs of a request would be due; raises Overloaded where they are refused.

        A budget that not even an idle server could meet, after reading and decoding as much, is no
        reason to refuse, nor to go before others; one that is spent on waiting is. A server with
        nothing else to do refuses nobody. Raises Unavailable while the first segment fails.
        """
        model = demand.model
        if self.in_flight + num_images > self.max_in_flight:
            raise Overloaded(f"{self.in_flight} of {self.max_in_flight} slots are taken")
        if model.breakers[1, False].is_open(now):
            raise Unavailable(f"{model.manifest.name} fails at its first segment")
        own_s = now - demand.arrival - demand.lag_s
        patient_s = own_s + max(DEFAULT_DEADLINE_S, PATIENCE * num_images * model.costs.full_s())
        needed_s = own_s + model.costs.idle_s(num_images, self.num_workers)
        due_s, budget_s = patient_s, demand.budget.latency_s
        if budget_s is not None and budget_s >= needed_s:
            due_s = min(budget_s, patient_s)
        due = demand.arrival + due_s
        if self.in_flight > 0 or demand.lag_s > DELIVERY_S:
            self._check_time(due, model, num_images, now)
        return due

    def admit(self, jobs: Sequence[Job], now: float) -> None:
        """Gives every job of one request a slot, or none and raises as `check` does."""
        due = self.check(jobs[0].demand, len(jobs), now)
        self.in_flight += len(jobs)
        for job in jobs:
            job.due = due
            self.wait(job, now)

    def wait(self, job: Job, now: float) -> None:
        """Puts an admitted job in the queue of its next segment."""
        job.waiting_since = now
        self._queues.put(job, Step(job.model, job.exit + 1))

    def wait_to_answer(self, job: Job, now: float) -> None:
        """Puts an admitted job in the queue of the exit head it has reached."""
        job.waiting_since = now
        self._queues.put(job, Step(job.model, job.exit, is_head=True))

    def leave(self, job: Job) -> bool:
        """Takes a waiting job out of its queue, if it is in one; its slot is still its own."""
        return self._queues.remove(job)

    def finish(self, num_jobs: int) -> None:
        """Frees the slots of jobs that have an outcome."""
        self.in_flight -= num_jobs

    def next_batch(self, now: float) -> Batch | None:
        """The most urgent job, with as many others of its step as help; None if none waits.

        Idle workers share a queue; no first answer waits for somebody's better one in its batch.
        """
        queue = self._queues.most_urgent()
        if queue is None:
            return None
        step, delivery_s = queue.step, queue.step.model.costs.delivery_s
        share = -(-len(queue) // max(1, self.num_workers - len(self._running)))
        num_candidates = min(step.model.costs.max_rows, share)
        slacks = [due - delivery_s - now for due in queue.due(num_candidates)]
        jobs = self._queues.take(queue, best_rows(step, slacks))
        ends_at = now + step.seconds(len(jobs))
        batch = Batch(step, jobs, now, ends_at)
        if not queue.is_first:
            batch.expires_at = jobs[0].answers_by
        self._running.add(batch)
        batch.wait_s = max(0.0, self._start_of(self._first_answers_s(inf), now) - ends_at)
        return batch

    def done(self, batch: Batch) -> None:
        """A worker is free again."""
        self._running.remove(batch)

    def expire(self, now: float) -> list[Job]:
        """The jobs that have waited too long for a better answer, to answer now.

        Those without any answer go on to the exit head of the segment they have run.
        """
        answering = [job for batch in self._running for job in _take_expired(batch, now)]
        for queue, better_s in self._waiting_for_better():
            for job in self._queues.take(queue, queue.num_due_by(now, better_s)):
                if job.answers:
                    answering.append(job)
                else:
                    self._queues.put(job, Step(job.model, job.exit, is_head=True))
        return answering

    def hurry(self, now: float) -> None:
        """Gives no job more time than until now: each answers at the next exit it can."""
        waiting = self._queues.jobs()
        for job in waiting:
            self.leave(job)
        for job in (*waiting, *(job for batch in self._running for job in batch.jobs)):
            job.deadline = job.due = min(job.due, now)
        for batch in self._running:
            batch.expires_at = min(batch.expires_at, now) if batch.expires_at < inf else inf
        for job, step in waiting.items():
            self._queues.put(job, step)

    def next_alarm(self) -> float:
        """When `expire` will have something to do, if nothing else happens; infinity for never."""
        alarms = (queue.places[0][0] - better_s for queue, better_s in self._waiting_for_better())
        return min((*alarms, *(batch.expires_at for batch in self._running)), default=inf)

    def _waiting_for_better(self) -> list[tuple[Queue, float]]:
        """The queues of jobs that could answer now, and seconds to a better response."""
        return [
            (queue, queue.step.seconds(1) + queue.step.model.costs.delivery_s)
            for queue in self._queues
            if queue.step.exit > 1 and not queue.step.is_head
        ]

    def _first_answers_s(self, due: float) -> float:
        """Worker seconds of the first answers that are waited for and due before then."""
        return sum(q.num_due_before(due) * q.step.row_s() for q in self._queues if q.is_first)

    def _start_of(self, work_s: float, now: float) -> float:
        """When a worker is free once the workers have done `work_s` seconds of work."""
        free = sorted(max(batch.ends_at, now) for batch in self._running)
        free = [now] * (self.num_workers - len(free)) + free
        for workers, (start, end) in enumerate(zip(free, [*free[1:], inf], strict=True), start=1):
            if work_s <= workers * (end - start):
                return start + work_s / workers
            work_s -= workers * (end - start)
        raise AssertionError("the last worker has no end")

    def _all_answered_s(self, model: ServedModel, num_jobs: int, num_ahead: int) -> float:
        """From the start on the jobs to the last one's first answer, `num_ahead` in its batch."""
        costs = model.costs
        all_s = num_jobs * costs.best_step_s(1, is_head=False) / self.num_workers
        return max(costs.batch_s(1, num_ahead + num_jobs), MARGIN * all_s)

    def _check_time(self, due: float, model: ServedModel, num_jobs: int, now: float) -> None:
        """Raises Overloaded where newcomers due then, or others for their sake, would be late.

        Work is expected to be done in the batches that save most, and to last as long as they do.
        """
        first = Step(model, 1)
        num_ahead = self._queues.find(first, is_first=True).num_due_before(due)
        ahead_s = MARGIN * self._first_answers_s(due)
        first_s = self._all_answered_s(model, num_jobs, num_ahead)
        answered_at = self._start_of(ahead_s, now) + first_s
        if answered_at + model.costs.delivery_s > due:
            raise Overloaded("the first answer would come too late")
        behind = sorted(
            (other_due - queue.step.model.costs.delivery_s, queue.step.row_s())
            for queue in self._queues
            if queue.is_first
            for other_due in queue.due(NUM_BEHIND, since=due)
        )
        delay_s = num_jobs * first.row_s() / self.num_workers
        end = self._start_of(ahead_s, now)
        for other_due, seconds in behind[:NUM_BEHIND]:
            end += seconds / self.num_workers
            if 0 <= other_due - end < delay_s:
                raise Overloaded("the first answer of another would come too late")


def _take_expired(batch: Batch, now: float) -> list[Job]:
    """The jobs of a running batch that have an answer and must give it now."""
    if now < batch.expires_at:
        return []
    expiries = [(job, job.answers_by) for job in batch.jobs if not job.is_over]
    batch.expires_at = min((at_s for _, at_s in expiries if at_s > now), default=inf)
    return [job for job, at_s in expiries if at_s <= now]


def best_rows(step: Step, slacks: Sequence[float]) -> int:
    """How many of the most urgent jobs to run: most rows per second, every deadline kept.

    `slacks` are the seconds that are left to each, most urgent first; one job always runs. Who
    would be late even alone hurries nobody.
    """
    all_s = step.all_seconds(len(slacks))
    alone_s = all_s[0]
    best, best_rate, tightest = 1, 1 / alone_s if alone_s > 0 else inf, inf
    for rows, (seconds, slack) in enumerate(zip(all_s, slacks, strict=True), start=1):
        if slack >= alone_s:
            tightest = min(tightest, slack)
        if seconds > tightest:
            break
        if rows > best_rate * seconds:
            best, best_rate = rows, rows / seconds
    return best
