"""The scheduler under a simulated clock: the same decisions, time from a cost profile."""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from math import inf

import numpy as np

from models.bundle.policy import Policy, StopReason
from server.catalog import ServedModel
from server.errors import Overloaded
from server.job import Answer, Budget, Job, Outcome
from server.scheduler import Batch, Scheduler, Step
from server.verdict import Verdict, judge

NO_IMAGE = np.zeros((0, 0, 0), np.uint8)
NO_PROBABILITIES = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Request:
    """One image arriving at `at_s`; `confidences[k - 1]` is what exit k would say of it."""

    at_s: float
    model: ServedModel
    policy: Policy
    budget: Budget
    confidences: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a request; without an outcome it was refused at `at_s`."""

    request: Request
    at_s: float
    outcome: Outcome | None

    @property
    def latency_s(self) -> float:
        return self.at_s - self.request.at_s


class Simulation:
    """Runs requests through a scheduler whose workers take the time that `took` says.

    `took(step, rows, is_head)` is in seconds; `is_head` asks for the exit head of the step, else
    its segment is meant. Nothing else takes time. As in the engine, what a step took corrects what
    the next is expected to take.
    """

    def __init__(self, scheduler: Scheduler, took: Callable[[Step, int, bool], float]) -> None:
        self.scheduler, self.took = scheduler, took
        self.now = 0.0
        self.fates: list[Fate] = []
        self._requests: dict[Job, Request] = {}
        self._running: list[tuple[float, int, Batch, list[Job], list[Verdict]]] = []
        self._order = count()

    def run(self, requests: Iterable[Request]) -> list[Fate]:
        """Every request's fate, in the order they ended in; requests come in order of arrival."""
        for request in requests:
            self._run_until(request.at_s)
            self.now = request.at_s
            self._arrive(request)
            self._start()
        self._run_until(inf)
        return self.fates

    def _run_until(self, end: float) -> None:
        """Everything that happens before `end`: batches that are done, and alarms."""
        while True:
            batch_end = self._running[0][0] if self._running else inf
            alarm = max(self.scheduler.next_alarm(), self.now)
            upcoming = min(batch_end, alarm)
            if upcoming >= end:
                return
            self.now = upcoming
            if batch_end <= alarm:
                self._hand_back()
            for job in self.scheduler.expire(self.now):
                self._finish(job, StopReason.DEADLINE)
            self._start()

    def _arrive(self, request: Request) -> None:
        job = Job(request.model, request.policy, request.budget, request.at_s, NO_IMAGE, ignore)
        try:
            self.scheduler.admit([job], self.now)
        except Overloaded:
            self.fates.append(Fate(request, self.now, None))
        else:
            self._requests[job] = request

    def _start(self) -> None:
        """Gives every idle worker a batch, as far as there are any."""
        while len(self._running) < self.scheduler.num_workers:
            batch = self.scheduler.next_batch(self.now)
            if batch is None:
                return
            step, rows, now = batch.step, len(batch.jobs), self.now
            if not step.is_head:
                seconds = self.took(step, rows, False)
                step.model.costs.segment_took(step.exit, rows, seconds)
                now += seconds
            for job in batch.jobs:
                job.queue_s += self.now - job.waiting_since
                job.exit = step.exit

            def answer(jobs: list[Job], step: Step = step, now: float = now) -> float:
                seconds = self.took(step, len(jobs), True)
                step.model.costs.head_took(step.exit, len(jobs), seconds)
                now += seconds
                for job in jobs:
                    value = self._requests[job].confidences[step.exit - 1]
                    job.answers.append(Answer(step.exit, NO_PROBABILITIES, value, now))
                return now

            going_on, ended = judge(batch, now, answer)
            ends_at = max([now, *(job.answers[-1].at_s for job in batch.jobs if job.answers)])
            entry = (ends_at, next(self._order), batch, going_on, ended)
            heapq.heappush(self._running, entry)

    def _hand_back(self) -> None:
        _, _, batch, going_on, ended = heapq.heappop(self._running)
        self.scheduler.done(batch)
        for job in going_on:
            self.scheduler.wait(job, self.now)
        for job, reason in ended:
            self._finish(job, reason)

    def _finish(self, job: Job, reason: StopReason) -> None:
        self.scheduler.finish(1)
        self.fates.append(Fate(self._requests.pop(job), self.now, job.outcome(reason)))


def ignore(_: object) -> None:
    """Nobody waits for a simulated answer."""
