"""The scheduler under a simulated clock: the same decisions, time from a cost profile."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf

import numpy as np

from models.bundle.policy import StopReason
from server.errors import Overloaded
from server.job import Answer, Demand, Job, Outcome
from server.queues import Step
from server.scheduler import Batch, Scheduler
from server.verdict import Verdict, judge

NO_IMAGE = np.zeros((0, 0, 0), np.uint8)
NO_PROBABILITIES = np.zeros(0, np.float32)


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


class Simulation:
    """Runs requests through a scheduler whose workers take the time that `took` says.

    `took(step, rows, is_head)` is in seconds; `is_head` asks for the exit head of the step, else
    its segment is meant. A batch takes what it is expected to take beyond its graphs; nothing else
    takes time. As in the engine, what a step took corrects what the next is expected to take.
    """

    def __init__(self, scheduler: Scheduler, took: Callable[[Step, int, bool], float]) -> None:
        self.scheduler, self.took = scheduler, took
        self.now = 0.0
        self.fates: list[Fate] = []
        self._requests: dict[Job, Request] = {}
        self._num_busy = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def run(self, requests: Iterable[Request]) -> list[Fate]:
        """Every request's fate, in the order they ended in; requests come in order of arrival."""
        for request in requests:
            self._run_until(request.demand.arrival)
            self.now = request.demand.arrival
            self._arrive(request)
            self._start()
        self._run_until(inf)
        return self.fates

    def _run_until(self, end: float) -> None:
        """Everything that happens before `end`: steps that end, and alarms."""
        while True:
            event = self._events[0][0] if self._events else inf
            alarm = max(self.scheduler.next_alarm(), self.now)
            upcoming = min(event, alarm)
            if upcoming >= end:
                return
            self.now = upcoming
            if event <= alarm:
                _, _, happen = heapq.heappop(self._events)
                happen()
            for job in self.scheduler.expire(self.now):
                self._finish(job, StopReason.DEADLINE)
            self._start()

    def _arrive(self, request: Request) -> None:
        job = Job(request.demand, NO_IMAGE, ignore)
        try:
            self.scheduler.admit([job], self.now)
        except Overloaded:
            self.fates.append(Fate(request, self.now, None))
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
            seconds = batch.step.model.costs.overhead_s
            if not batch.step.is_head:
                seconds += self._take(batch.step, len(batch.jobs))
            self._at(self.now + seconds, partial(self._judge, batch))

    def _take(self, step: Step, rows: int, *, is_head: bool = False) -> float:
        """The seconds that a graph takes, from which the costs learn."""
        seconds = self.took(step, rows, is_head)
        costs = step.model.costs
        (costs.head_took if is_head else costs.segment_took)(step.exit, rows, seconds)
        return seconds

    def _judge(self, batch: Batch) -> None:
        """The segment of a batch has ended; the head runs for those who may answer here."""
        for job in batch.jobs:
            job.exit = batch.step.exit
        end = self.now

        def answer(jobs: list[Job]) -> float:
            nonlocal end
            end += self._take(batch.step, len(jobs), is_head=True)
            for job in jobs:
                value = self._requests[job].confidences[batch.step.exit - 1]
                job.answers.append(Answer(batch.step.exit, NO_PROBABILITIES, value, end))
            return end

        verdict = judge(batch, self.now, answer)
        self._at(end, partial(self._hand_back, batch, verdict))

    def _hand_back(self, batch: Batch, verdict: Verdict) -> None:
        self._num_busy -= 1
        self.scheduler.done(batch)
        for job in verdict.going_on:
            if not job.is_over:
                self.scheduler.wait(job, self.now)
        for job, reason in verdict.ended:
            self._finish(job, reason)

    def _at(self, at_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), happen))

    def _finish(self, job: Job, reason: StopReason) -> None:
        if not job.is_over:
            job.is_over = True
            self.scheduler.finish(1)
            self.fates.append(
                Fate(self._requests.pop(job), self.now, job.outcome(reason, self.now))
            )


def ignore(_: object) -> None:
    """Nobody waits for a simulated answer."""
