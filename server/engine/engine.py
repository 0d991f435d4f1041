"""The loop that serves: next batch, run, judge, hand over. All of it happens on the event loop.

Scheduler, jobs, costs and breakers belong to that one thread; lanes are handed a task and hand back
what it gave.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import inf, isfinite
from typing import Protocol

from models.bundle.policy import StopReason
from server.engine.admission import Admission, Slots
from server.engine.compute import Computed, Task
from server.engine.job import Demand, Job, Outcome
from server.engine.lanes import Lanes
from server.engine.model import TURN_S, ServedModel
from server.engine.noting import note, note_failures, requests_of
from server.engine.scheduler import Batch, Scheduler
from server.engine.shadow import Shadows
from server.engine.verdict import asking, judge
from server.errors import Draining, GraphOutOfUse, NoAnswer, Overloaded, Unavailable

logger = logging.getLogger("offramp.engine")
STOP_S = 5.0
"""How long a segment may still run when the server ends."""
WATCH_S = 0.5
"""Time between two looks at the lanes."""
MAX_SHADOWS = 64
"""How many shadows may wait for idle time; further ones are not taken."""
Result = tuple[Job, Outcome | Exception]


class Counting(Protocol):
    """The engine's counts."""

    def batch_ran(
        self,
        model: ServedModel,
        exit: int,
        rows: int,
        seconds: float | None,
        confidences: Sequence[float],
    ) -> None: ...
    def graph_failed(self, model: ServedModel, exit: int) -> None: ...
    def lane_replaced(self) -> None: ...
    def shadow_compared(self, model: ServedModel, exit: int, *, agrees: bool) -> None: ...


class Engine:
    """Runs admitted jobs to their outcomes, on the event loop that it is made on.

    `Lanes` says what `num_lanes` and `stall_s` are, `Admission` what `max_in_flight` is, `Shadows`
    what `shadow_share` is.
    """

    def __init__(
        self,
        num_lanes: int,
        max_in_flight: int,
        stall_s: float,
        shadow_share: float,
        counts: Counting,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._scheduler = Scheduler(num_lanes)
        self.admission = Admission(max_in_flight, self._scheduler)
        self.pace = self._scheduler.pace
        self._shadows = Shadows(shadow_share, counts)
        self._counts = counts
        self._lanes = Lanes(num_lanes, stall_s, self._loop)
        self._is_turning = False
        self._turned_at = -inf
        self._inline_s, self._has_ended = 0.0, False
        self._is_hurrying = False
        self._alarm: asyncio.TimerHandle | None = None
        self._watcher = self._loop.call_later(WATCH_S, self._watch)

    def admit(self, demand: Demand, num_rows: int, *, strict: bool = False) -> Slots:
        """Slots for a request's rows, before they are decoded; raises what admission raises.

        A background request may wait: nothing is learned from how long it does.
        """
        if not demand.is_background:
            self.pace.waited(demand.lag_s)
        return self.admission.admit(demand, num_rows, time.monotonic(), strict=strict)

    def refused_again(self, error: Overloaded, lag_s: float) -> None:
        """A request was refused unread, since one that asks for the same just was."""
        self.pace.waited(lag_s)
        self._scheduler.debt.lack(error.lacked_s, time.monotonic())

    def submit(self, slots: Slots, jobs: list[Job]) -> None:
        """Starts on the jobs of an admitted request. Outcomes come through `Job.deliver`."""
        now = time.monotonic()
        self.admission.decoded(slots)
        for job in jobs:
            job.deadline, job.due = slots.deadline, slots.due
            self._scheduler.wait(job, now)
        if self._is_hurrying:
            self.hurry()
        self._plan_turn()

    def release(self, slots: Slots) -> None:
        """Gives back the slots of a request that could not be decoded."""
        self.admission.decoded(slots)
        self.admission.free(slots.demand, slots.num_rows)

    def cancel(self, jobs: Iterable[Job]) -> None:
        """No client waits for these jobs any more: no further segment runs for them."""
        for job in jobs:
            self._scheduler.leave(job)
            self._free(job)
        self._lanes.stop_idle_runs()

    def queue_depth(self) -> int:
        return self._scheduler.queue_depth

    def in_flight(self) -> int:
        return self.admission.in_flight

    def waited_s(self, now: float) -> float:
        """How long a request that is read now may have waited unread: since the loop was free."""
        return now - self._turned_at if self._is_turning else 0.0

    def is_working(self) -> bool:
        """Whether every lane is alive and not stuck."""
        return self._lanes.is_working(time.monotonic())

    def hurry(self) -> None:
        """Ends every job: with its answer now, or if it has none, with that of its next exit.

        So it goes with jobs that come later. Background jobs that wait without an answer are
        refused.
        """
        self._is_hurrying = True
        leaving = self._scheduler.hurry(time.monotonic())
        self._end((job, Draining("the server is ending")) for job in leaving)
        self._plan_turn()

    def stop(self) -> None:
        """Ends the lanes, except one that hangs. All admitted jobs have been answered before."""
        self._watcher.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        self._lanes.end(time.monotonic() + STOP_S)

    def _turn(self) -> None:
        """Answers what is due, and gives every lane that is free a batch.

        Comes back where the event loop had one, with all that the loop read meanwhile.
        """
        self._is_turning = False
        previous, self._turned_at = self._turned_at, time.monotonic()
        if self._inline_s:
            self.pace.turned(self._turned_at - previous, self._inline_s)
        self._inline_s, self._has_ended = 0.0, False
        now = self._turned_at
        self._expire(now)
        while (batch := self._scheduler.next_batch(now)) is not None:
            self._start(batch)
            if batch.is_inline:
                now = time.monotonic()
                self._inline_s += now - batch.started_at
                is_background = batch.jobs[0].demand.is_background
                if self._inline_s > TURN_S or self._has_ended or is_background:
                    break  # newcomers wait to be read, and outcomes to be sent
        if batch is not None and self._scheduler.num_waiting:
            self._plan_turn()
        else:
            self._inline_s = 0.0
            self._plan_alarm()

    def _start(self, batch: Batch) -> None:
        """Runs a batch, here or on a thread. A graph that is out of use fails at once."""
        step, jobs, now = batch.step, batch.jobs, batch.started_at
        asked = asking(batch)
        done = partial(self._ran, batch, asked)
        if (computed := out_of_use(batch, now)) is not None:
            return done(computed)
        model = batch.model
        head_rows = [] if model.is_out(step.exit, now, is_head=True) else asked
        task = Task(model, step.exit, step.is_head, [job.features for job in jobs], head_rows)
        return self._lanes.start(batch, task, done)

    def _ran(self, batch: Batch, asked: list[int], computed: Computed) -> None:
        """Notes the results of a batch, judges its jobs, and hands them over."""
        now = time.monotonic()
        self._scheduler.done(batch)
        self._lanes.done(batch)
        note(batch, asked, computed, now)
        self._count(batch, computed, now)
        if computed.failure is not None:
            self._fall_back(batch, now)
        else:
            core_s = computed.segment_s + computed.head_s
            batch.step.costs.batch_took(now - batch.started_at, core_s)
            self._hand_over(batch, {batch.jobs[row] for row in asked}, now)
        if not batch.is_inline:
            self._plan_turn()

    def _hand_over(self, batch: Batch, asked: set[Job], now: float) -> None:
        """Judges the jobs of a batch: they wait for their next segment, or have their outcome."""
        for job in batch.jobs:
            if job.progress is not None and job.has_answer_at(batch.step.exit) and not job.is_over:
                job.progress(job.answers[-1])
        verdict = judge(batch, asked, now)
        for job in verdict.going_on:
            self._scheduler.wait(job, now)
        for job, reason in verdict.to_answer:
            self._scheduler.wait_to_answer(job, reason, now)
        for job, reason in verdict.ended:
            if reason is StopReason.CONFIDENT:
                self._shadow(job, now)
        if verdict.ended:
            self._end((job, job.outcome(reason, now)) for job, reason in verdict.ended)
        if verdict.failed:
            self._end((job, NoAnswer(f"{batch.step} failed")) for job in verdict.failed)

    def _fall_back(self, batch: Batch, now: float) -> None:
        """The step failed: its jobs answer from their last exit, if they have reached one."""
        for job in batch.jobs:
            job.is_degraded = True
            if job.is_over:
                continue
            if job.answers:
                self._end([(job, job.outcome(StopReason.DEGRADED, now))])
            elif job.exit > 0 and not batch.step.is_head:
                self._scheduler.wait_to_answer(job, StopReason.DEGRADED, now)
            else:
                self._end([(job, NoAnswer(f"{batch.step} failed"))])

    def _count(self, batch: Batch, computed: Computed, now: float) -> None:
        step, rows = batch.step, len(batch.jobs)
        for _ in range(note_failures(batch, computed, now)):
            self._counts.graph_failed(batch.model, step.exit)
        if any(job.is_counted for job in batch.jobs):
            seconds = computed.segment_s if computed.failure is None and not step.is_head else None
            confidences = list(filter(isfinite, computed.confidences))
            self._counts.batch_ran(batch.model, step.exit, rows, seconds, confidences)

    def _shadow(self, job: Job, now: float) -> None:
        """Runs a copy of some early answers on to the last exit, when lanes are idle."""
        if self.admission.num_background >= MAX_SHADOWS:
            return
        with suppress(Overloaded, Unavailable):
            if (shadow := self._shadows.of(job, now)) is not None:
                self.admission.decoded(self.admission.admit(shadow.demand, 1, now))
                self._scheduler.wait(shadow, now)

    def _expire(self, now: float) -> None:
        """Answers for the jobs that have waited too long for a better answer."""
        self._end((job, job.overdue(now)) for job in self._scheduler.expire(now))
        self._lanes.stop_idle_runs()

    def _end(self, results: Iterable[Result]) -> None:
        """Delivers results to the jobs that are not over, and frees their slots."""
        for job, result in results:
            if self._free(job):
                self._has_ended = True
                job.deliver(result)

    def _free(self, job: Job) -> bool:
        """Frees a job's slot, unless that was done before."""
        if job.is_over:
            return False
        job.is_over = True
        self.admission.free(job.demand, 1)
        return True

    def _plan_turn(self) -> None:
        """Plans a turn for when the loop has read the requests that have come.

        They have come since the latest turn if that ran batches on the loop, else since now.
        """
        if not self._is_turning:
            self._is_turning = True
            if not self._inline_s:
                self._turned_at = time.monotonic()
            if self.admission.in_flight > 1:  # requests that are read by then join the batch
                self._loop.call_soon(self._loop.call_soon, self._turn)
            else:
                self._loop.call_soon(self._turn)

    def _plan_alarm(self) -> None:
        """Plans a turn for the first job that must answer before a lane is free."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if (at_s := self._scheduler.next_alarm()) < inf:
            self._alarm = self._loop.call_later(at_s - time.monotonic(), self._plan_turn)

    def _watch(self) -> None:
        """Replaces the lanes that are lost; their jobs fall back on what they have."""
        now = time.monotonic()
        for name, batch in self._lanes.replace_lost(now):
            extra = requests_of(batch.jobs if batch else ())
            logger.error("%s is lost with %s", name, batch and batch.step, extra=extra)
            self._counts.lane_replaced()
            if batch is not None:
                batch.model.breakers[batch.step.exit, batch.step.is_head].failed(now)
                self._scheduler.done(batch)
                self._fall_back(batch, now)
            self._plan_turn()
        self._watcher = self._loop.call_later(WATCH_S, self._watch)


def out_of_use(batch: Batch, now: float) -> Computed | None:
    """The failure of a step that begins with a graph out of use, else None."""
    step = batch.step
    if not batch.model.is_out(step.exit, now, is_head=step.is_head):
        return None
    return Computed(failure=GraphOutOfUse(f"{step} is out of use"))
