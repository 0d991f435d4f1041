"""One server process under a simulated clock: the same decisions, time from a cost profile."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from server.engine.admission import Admission
from server.engine.job import Answer, Demand, Given, Job, Outcome
from server.engine.model import TURN_S, Step
from server.engine.scheduler import Batch
from server.engine.verdict import asking, judge
from server.errors import Overloaded

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


@dataclass(frozen=True, slots=True)
class Python:
    """Seconds of Python on the event loop for each request and each batch.

    Half of a request's come before it is admitted or refused, half after its outcome; a batch's
    come after its graphs.
    """

    request_s: float = 0.0
    batch_s: float = 0.0


NO_PYTHON = Python()


@dataclass(slots=True)
class LaneRun:
    """A batch on a thread, which ends at `ends_at`; its head runs for the rows `asked`."""

    batch: Batch
    asked: list[int]
    core_s: float
    ends_at: float


class Simulation:
    """The event loop of one process, and its lanes, in the time that `took` says.

    `took(step, rows, is_head)` is in seconds; `is_head` asks for the exit head of the step, else
    its segment is meant. The loop reads the requests that have come, writes the responses that are
    ready, and runs inline batches: one thing after the other. Each lane has a core of its own. As
    in the engine, what a step, a batch and a response took corrects what the next are expected to
    take.
    """

    def __init__(
        self,
        admission: Admission,
        took: Callable[[Step, int, bool], float],
        python: Python = NO_PYTHON,
    ) -> None:
        self.admission, self.scheduler = admission, admission.scheduler
        self.took, self.python = took, python
        self.now = 0.0
        self.fates: list[Fate] = []
        self._coming: deque[Request] = deque()
        self._requests: dict[Job, Request] = {}
        self._runs: list[LaneRun] = []
        self._ended: deque[tuple[Job, Outcome]] = deque()
        self._is_turning = False
        self._turned_at = -inf
        self._inline_s = 0.0

    def run(self, requests: Iterable[Request]) -> list[Fate]:
        """Every request's fate, in the order they ended in; requests come in order of arrival."""
        self._coming.extend(requests)
        while (upcoming := self._upcoming()) < inf:
            self.now = max(self.now, upcoming)
            self._read()
            self._take_back()
            self._respond()
            if self._is_turning or self.scheduler.next_alarm() <= self.now:
                self._turn()
        return self.fates

    def _upcoming(self) -> float:
        """When the loop has something to do."""
        if self._is_turning or self._ended:
            return self.now
        arrival = self._coming[0].demand.arrival if self._coming else inf
        end = min((run.ends_at for run in self._runs), default=inf)
        return min(arrival, end, self.scheduler.next_alarm())

    def _read(self) -> None:
        """Reads the requests that have come; the next ones wait for the next turn."""
        read_at = self.now
        while self._coming and self._coming[0].demand.arrival <= read_at:
            request = self._coming.popleft()
            lag_s = self.now - self._turned_at if self._is_turning else 0.0
            demand = replace(request.demand, arrival=self.now - lag_s, lag_s=lag_s)
            self.now += self.python.request_s / 2
            self._arrive(request, demand)

    def _arrive(self, request: Request, demand: Demand) -> None:
        self.scheduler.pace.waited(demand.lag_s)
        try:
            slots = self.admission.admit(demand, 1, self.now)
        except Overloaded:
            self.fates.append(Fate(request, self.now, None))
            return
        self.admission.decoded(slots)
        nothing = Given([], 0, demand.length)
        job = Job(demand, nothing, ignore, deadline=slots.deadline, due=slots.due)
        self._requests[job] = request
        self.scheduler.wait(job, self.now)
        self._plan_turn()

    def _plan_turn(self) -> None:
        if not self._is_turning:
            self._is_turning, self._turned_at = True, self.now

    def _take_back(self) -> None:
        """Takes over the batches whose threads have ended."""
        ended = [run for run in self._runs if run.ends_at <= self.now]
        self._runs = [run for run in self._runs if run.ends_at > self.now]
        for run in sorted(ended, key=lambda each: each.ends_at):
            self.now += self.python.batch_s
            self._hand_over(run.batch, run.asked, run.core_s)
            self._is_turning = True

    def _respond(self) -> None:
        """Writes the responses of the jobs that have ended."""
        while self._ended:
            job, outcome = self._ended.popleft()
            self.now += self.python.request_s / 2
            self.fates.append(Fate(self._requests.pop(job), self.now, outcome))
            if self.now > outcome.ended_at:  # else nothing takes time here
                self.scheduler.pace.delivered(self.now - outcome.ended_at)

    def _turn(self) -> None:
        """Answers what is due, and gives every lane that is free a batch, as the engine does."""
        self._is_turning = False
        previous, self._turned_at = self._turned_at, self.now
        if self._inline_s:
            self.scheduler.pace.turned(self.now - previous, self._inline_s)
        self._inline_s = 0.0
        for job in self.scheduler.expire(self.now):
            self._end(job, job.overdue(self.now))
        while (batch := self.scheduler.next_batch(self.now)) is not None:
            self._start(batch)
            if self._inline_s > TURN_S or self._ended:
                break  # newcomers wait to be read, and outcomes to be sent
        if batch is not None and self.scheduler.num_waiting:
            self._is_turning = True
        else:
            self._inline_s = 0.0

    def _start(self, batch: Batch) -> None:
        """Runs a batch, at once on the event loop or beside it on a thread."""
        asked = asking(batch)
        seconds = 0.0 if batch.step.is_head else self._take(batch.step, len(batch.jobs))
        if asked:
            seconds += self._take(batch.step, len(asked), is_head=True)
        if not batch.is_inline:
            self._runs.append(LaneRun(batch, asked, seconds, self.now + seconds))
            return
        self.now += seconds + self.python.batch_s
        self._inline_s += seconds + self.python.batch_s
        self._hand_over(batch, asked, seconds)

    def _take(self, step: Step, rows: int, *, is_head: bool = False) -> float:
        """The seconds that a graph takes, from which the costs learn."""
        seconds, costs = self.took(step, rows, is_head), step.costs
        (costs.head_took if is_head else costs.segment_took)(step.exit, rows, seconds)
        return seconds

    def _hand_over(self, batch: Batch, asked: list[int], core_s: float) -> None:
        """Judges the jobs of a batch: they wait for their next segment, or have their outcome."""
        exit, jobs = batch.step.exit, batch.jobs
        self.scheduler.done(batch)
        batch.step.costs.batch_took(self.now - batch.started_at, core_s)
        for job in jobs:
            job.exit = exit
        for job in (jobs[row] for row in asked):
            if not job.is_over:
                confidence = self._requests[job].confidences[exit - 1]
                job.answers.append(Answer(exit, NO_PROBABILITIES, confidence, self.now))
        verdict = judge(batch, {jobs[row] for row in asked}, self.now)
        for job in verdict.going_on:
            self.scheduler.wait(job, self.now)
        for job, reason in verdict.to_answer:
            self.scheduler.wait_to_answer(job, reason, self.now)
        for job, reason in verdict.ended:
            self._end(job, job.outcome(reason, self.now))

    def _end(self, job: Job, outcome: Outcome) -> None:
        job.is_over = True
        self.admission.free(job.demand, 1)
        self._ended.append((job, outcome))


def ignore(_: object) -> None:
    """No client waits for a simulated answer."""
