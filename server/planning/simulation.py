"""The scheduler under a simulated clock: the same decisions, time from a cost profile."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import numpy as np

from models.bundle.policy import StopReason
from server.engine.job import Answer, Demand, Job, Outcome
from server.engine.queues import Step
from server.engine.scheduler import Batch, Scheduler
from server.engine.verdict import Verdict, judge
from server.errors import Overloaded
from server.planning.cores import Cores, Work

NO_IMAGE = np.zeros((0, 0, 0), np.uint8)
NO_PROBABILITIES = np.zeros(0, np.float32)
URGENT = -inf
"""Workers give way to the event loop."""


@dataclass(frozen=True, slots=True)
class Request:
    """One image; `confidences[k - 1]` is what exit k would say of it."""

    demand: Demand
    confidences: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a request; without an outcome it was refused then."""

    request: Request
    at_s: float
    outcome: Outcome | None

    @property
    def latency_s(self) -> float:
        return self.at_s - self.request.demand.arrival


@dataclass(frozen=True, slots=True)
class Python:
    """Seconds of Python that a request and a batch take, one after the other whatever the cores.

    Half of a request's come before it is admitted or refused, half after its outcome; a batch's
    come after its graphs.
    """

    request_s: float = 0.0
    batch_s: float = 0.0


NO_PYTHON = Python()


class Simulation:
    """Runs requests through a scheduler whose workers take the time that `took` says.

    `took(step, rows, is_head)` is in seconds; `is_head` asks for the exit head of the step, else
    its segment is meant. Nothing but that and `python` takes time, and waiting for one of `cores`,
    where there is a number of them. As in the engine, what a step, a batch and a response took
    corrects what the next are expected to take.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        took: Callable[[Step, int, bool], float],
        python: Python = NO_PYTHON,
        cores: int | None = None,
    ) -> None:
        self.scheduler, self.took, self.python = scheduler, took, python
        self.now = 0.0
        self.fates: list[Fate] = []
        self._requests: dict[Job, Request] = {}
        self._num_busy = 0
        self._cores = Cores(cores)
        self._for_interpreter: deque[Work] = deque()

    def run(self, requests: Iterable[Request]) -> list[Fate]:
        """Every request's fate, in the order they ended in; requests come in order of arrival."""
        for request in requests:
            self._run_until(request.demand.arrival)
            self._pass_to(request.demand.arrival)
            self._interpret(self.python.request_s / 2, partial(self._arrive, request))
            self._start()
        self._run_until(inf)
        return self.fates

    def _run_until(self, end: float) -> None:
        """Everything that happens before `end`: work that is done, and alarms."""
        while True:
            done = self._cores.next_end()
            alarm = max(self.scheduler.next_alarm(), self.now)
            if (upcoming := min(done, alarm)) >= end:
                return
            self._pass_to(upcoming)
            if done <= alarm:
                self._cores.take_done().then()
            for job in self.scheduler.expire(self.now):
                self._finish(job, StopReason.DEADLINE)
            self._start()

    def _pass_to(self, now: float) -> None:
        self.now = now
        self._cores.run_until(now)

    def _arrive(self, request: Request) -> None:
        lag_s = self.now - request.demand.arrival - self.python.request_s / 2
        demand = replace(request.demand, lag_s=lag_s)
        job = Job(demand, NO_IMAGE, ignore)
        try:
            self.scheduler.admit([job], self.now)
        except Overloaded:
            self._refuse(request, demand)
        else:
            self._requests[job] = request

    def _start(self) -> None:
        """Gives every idle worker a batch, as far as there are any."""
        while self._num_busy < self.scheduler.num_workers:
            batch = self.scheduler.next_batch(self.now)
            if batch is None:
                return
            self._num_busy += 1
            for job in batch.jobs:
                job.queue_s += self.now - job.waiting_since
            seconds = 0.0 if batch.step.is_head else self._take(batch, len(batch.jobs))
            self._compute(batch, seconds, partial(self._judge, batch))

    def _take(self, batch: Batch, rows: int, *, is_head: bool = False) -> float:
        """The seconds that a graph takes, from which the costs learn."""
        step = batch.step
        seconds = self.took(step, rows, is_head)
        costs = step.model.costs
        (costs.head_took if is_head else costs.segment_took)(step.exit, rows, seconds)
        batch.core_s += seconds
        return seconds

    def _judge(self, batch: Batch) -> None:
        """The segment of a batch has ended; the head runs for those who may answer here."""
        for job in batch.jobs:
            job.exit = batch.step.exit
        end = self.now

        def answer(jobs: list[Job]) -> float:
            nonlocal end
            end += self._take(batch, len(jobs), is_head=True)
            for job in jobs:
                value = self._requests[job].confidences[batch.step.exit - 1]
                job.answers.append(Answer(batch.step.exit, NO_PROBABILITIES, value, end))
            return end

        verdict = judge(batch, self.now, answer)
        hand_back = partial(self._hand_back, batch, verdict)
        self._compute(
            batch, end - self.now, partial(self._interpret, self.python.batch_s, hand_back)
        )

    def _hand_back(self, batch: Batch, verdict: Verdict) -> None:
        self._num_busy -= 1
        self.scheduler.done(batch)
        batch.step.model.costs.batch_took(self.now - batch.started_at, batch.core_s)
        for job in verdict.going_on:
            if not job.is_over:
                self.scheduler.wait(job, self.now)
        for job, reason in verdict.ended:
            self._finish(job, reason)

    def _finish(self, job: Job, reason: StopReason) -> None:
        if not job.is_over:
            job.is_over = True
            self.scheduler.finish(1)
            respond = partial(
                self._respond, self._requests.pop(job), job, job.outcome(reason, self.now)
            )
            self._interpret(self.python.request_s / 2, respond)

    def _respond(self, request: Request, job: Job, outcome: Outcome) -> None:
        self.fates.append(Fate(request, self.now, outcome))
        self._learn_delivery(job.demand, job.demand.lag_s + self.now - outcome.ended_at)

    def _refuse(self, request: Request, demand: Demand) -> None:
        self.fates.append(Fate(request, self.now, None))
        self._learn_delivery(demand, 2 * demand.lag_s)

    def _learn_delivery(self, demand: Demand, seconds: float) -> None:
        if self.python.request_s > 0:  # else a response takes no time
            demand.model.costs.delivered(seconds)

    def _compute(self, batch: Batch, seconds: float, then: Callable[[], None]) -> None:
        """Goes on once the batch's worker has had a core for so long: it keeps it till the end."""
        self._cores.add(Work(seconds, batch.started_at, then))

    def _interpret(self, seconds: float, then: Callable[[], None]) -> None:
        """Goes on once the interpreter has had time for this, after all that came before."""
        if seconds == 0:
            then()
            return
        self._for_interpreter.append(Work(seconds, URGENT, partial(self._interpreted, then)))
        if len(self._for_interpreter) == 1:
            self._cores.add(self._for_interpreter[0])

    def _interpreted(self, then: Callable[[], None]) -> None:
        self._for_interpreter.popleft()
        if self._for_interpreter:
            self._cores.add(self._for_interpreter[0])
        then()


def ignore(_: object) -> None:
    """Nobody waits for a simulated answer."""
