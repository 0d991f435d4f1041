"""Worker threads that take batches from the scheduler, run them and apply the stop rule.

Nothing here runs on the event loop but alarms, the watch over the workers and the delivery of
answers and outcomes.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from math import inf
from typing import TypeVar

from onnxruntime import RunOptions

from models.bundle.policy import StopReason
from server.engine.compute import advance, answer
from server.engine.job import Answer, Demand, Job, Outcome
from server.engine.scheduler import Batch, Scheduler
from server.engine.shadow import Shadow, Shadows
from server.engine.verdict import Verdict, judge
from server.engine.worker import Worker
from server.errors import GraphFailed, GraphOutOfUse, NoAnswer
from server.telemetry.metrics import Metrics

logger = logging.getLogger("offramp.engine")
STOP_S = 5.0
"""How long a segment may still run when the server ends."""
Result = tuple[Job, Outcome | Exception]
T = TypeVar("T")
Compute = Callable[[Batch, list[Job], RunOptions], T]

WATCH_S = 0.5
"""Time between two looks at the workers."""


class Engine:
    """Runs admitted jobs to their outcomes on a fixed number of threads.

    A thread that dies, or that is `stall_s` behind what its batch was to take, is replaced.
    """

    def __init__(
        self, scheduler: Scheduler, metrics: Metrics, shadows: Shadows, stall_s: float
    ) -> None:
        self._scheduler, self._metrics = scheduler, metrics
        self._shadows, self._stall_s = shadows, stall_s
        self._alarm = inf
        self._timer: asyncio.TimerHandle | None = None
        self._ready = threading.Condition()
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._numbers = count()
        self._workers = {self._new_worker() for _ in range(scheduler.num_workers)}
        self._watcher = self._loop.call_later(WATCH_S, self._watch)

    def check(self, demand: Demand, num_images: int) -> None:
        """Raises what `submit` would raise now."""
        with self._ready:
            self._scheduler.check(demand, num_images, time.monotonic())

    def submit(self, jobs: list[Job]) -> None:
        """Admits every job or none; raises Overloaded or Unavailable.

        Outcomes come through `Job.deliver`.
        """
        with self._ready:
            self._scheduler.admit(jobs, time.monotonic())
            self._ready.notify(len(jobs))

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Nobody wants these answers any more: no further segment runs for them."""
        with self._ready:
            for job in jobs:
                self._scheduler.leave(job)
                self._free(job)
            self._stop_idle_runs()

    def queue_depth(self) -> int:
        with self._ready:
            return self._scheduler.queue_depth

    def in_flight(self) -> int:
        with self._ready:
            return self._scheduler.in_flight

    def is_working(self) -> bool:
        """Whether every worker is alive and gets on."""
        now = time.monotonic()
        with self._ready:
            return not any(worker.is_lost(now, self._stall_s) for worker in self._workers)

    def hurry(self) -> None:
        """Answers at once for whoever has an answer, and for the others at their next exit."""
        with self._ready:
            now = time.monotonic()
            self._scheduler.hurry(now)
            self._expire(now)
            self._ready.notify_all()

    def stop(self) -> None:
        """Lets the workers finish every admitted job, then ends them, but for one that hangs."""
        self._watcher.cancel()
        with self._ready:
            self._is_stopping = True
            self._ready.notify_all()
            workers = list(self._workers)
        deadline = time.monotonic() + STOP_S
        for worker in workers:
            worker.thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self, worker: Worker) -> None:
        with self._ready:
            work = self._next(worker)
        while work is not None:
            verdict = None
            if isinstance(work, Shadow):
                self._follow(worker, work)
            else:
                verdict = self._run(worker, work)
            with self._ready:
                if worker not in self._workers:
                    return
                if isinstance(work, Batch):
                    self._hand_back(work, verdict)
                work = self._next(worker)

    def _next(self, worker: Worker) -> Batch | Shadow | None:
        """The next batch, or a shadow where none waits; None once stopping and no job is left.

        A worker goes on with what it has just handed back, if that is next. Another is woken only
        for what is left then: waking takes longer than many a segment.
        """
        worker.take(None)
        while (batch := self._scheduler.next_batch(time.monotonic())) is None:
            if self._is_stopping and self._scheduler.in_flight == 0:
                self._ready.notify_all()
                return None
            if (shadow := self._shadows.take()) is not None:
                return shadow
            self._ready.wait()
        worker.take(batch)
        if self._scheduler.queue_depth:
            self._ready.notify()
        return batch

    def _follow(self, worker: Worker, shadow: Shadow) -> None:
        try:
            is_done = self._shadows.follow(shadow, worker.options)
        except Exception:  # nobody waits for it
            logger.exception("a shadow sample of %s failed", shadow.model.manifest.name)
            return
        if not is_done:
            with self._ready:
                self._shadows.put_back(shadow)

    def _run(self, worker: Worker, batch: Batch) -> Verdict | None:
        """Runs a step for a batch and judges its jobs; None where the segment failed."""
        step, jobs = batch.step, batch.jobs
        start = time.monotonic()
        for job in jobs:
            job.queue_s += start - job.waiting_since
        try:
            if not step.is_head:
                self._attempt(advance, worker, batch, jobs)
            answer_all = partial(self._attempt, answer, worker, batch)
            verdict = judge(batch, time.monotonic(), answer_all)
        except GraphFailed:
            return None
        told = [(j, j.answers[-1]) for j in jobs if j.progress and j.has_answer_at(step.exit)]
        if told:
            self._loop.call_soon_threadsafe(_report, told)
        try:
            self._count(batch)
        except Exception:  # an answer is worth more than its count
            logger.exception("a batch was not counted")
        return verdict

    def _attempt(self, compute: Compute[T], worker: Worker, batch: Batch, jobs: list[Job]) -> T:
        """Runs the segment or the exit head for the jobs; logs and counts a failure."""
        try:
            return compute(batch, jobs, worker.options)
        except GraphOutOfUse:
            raise
        except GraphFailed as error:
            if not worker.options.terminate:
                logger.exception("%s", error, extra=_requests_of(jobs))
                self._metrics.graph_failed(batch.step.model, batch.step.exit)
            raise

    def _count(self, batch: Batch) -> None:
        step, jobs = batch.step, batch.jobs
        if not step.is_head:
            seconds = jobs[0].segment_s[-1]
            self._metrics.segment_ran(step.model, step.exit, len(jobs), seconds)
            step.model.statistics.segment_ran(len(jobs), seconds)
        confidences = [j.answers[-1].confidence for j in jobs if j.has_answer_at(step.exit)]
        self._metrics.head_ran(step.model, step.exit, confidences)

    def _hand_back(self, batch: Batch, verdict: Verdict | None) -> None:
        """Returns a batch to the scheduler, and answers for whoever ends with it."""
        now = time.monotonic()
        self._scheduler.done(batch)
        if verdict is None:
            self._fall_back(batch, now)
        else:
            batch.step.model.costs.batch_took(now - batch.started_at, batch.core_s)
            for job in verdict.going_on:
                if not job.is_over:
                    self._scheduler.wait(job, now)
            self._end((job, job.outcome(reason, now)) for job, reason in verdict.ended)
            for job, reason in verdict.ended:
                if reason is StopReason.CONFIDENT:
                    self._shadows.offer(job)
            self._end((job, NoAnswer(f"{batch.step} failed")) for job in verdict.failed)
        self._expire(now)

    def _fall_back(self, batch: Batch, now: float) -> None:
        """The step failed: its jobs answer from their last exit, if they have reached one."""
        for job in batch.jobs:
            job.is_degraded = True
            if job.is_over:
                continue
            if job.answers:
                self._end([(job, job.outcome(StopReason.DEGRADED, now))])
            elif job.exit > 0 and not batch.step.is_head:
                self._scheduler.wait_to_answer(job, now)
            else:
                self._end([(job, NoAnswer(f"{batch.step} failed"))])

    def _end(self, results: Iterable[Result]) -> None:
        """Delivers to those who still wait, and frees their slots."""
        ended = [(job, result) for job, result in results if self._free(job)]
        if ended:
            self._loop.call_soon_threadsafe(_deliver, ended)

    def _free(self, job: Job) -> bool:
        """Frees a job's slot, unless that was done before."""
        if job.is_over:
            return False
        job.is_over = True
        self._scheduler.finish(1)
        return True

    def _expire(self, now: float) -> None:
        """Answers for the jobs that have waited too long; sets the alarm for the next ones."""
        alarm = self._scheduler.next_alarm()
        if alarm <= now:
            late = [(job, min(now, job.answers_by)) for job in self._scheduler.expire(now)]
            # an alarm that rings late is part of what a response takes
            self._end((job, job.outcome(StopReason.DEADLINE, at_s)) for job, at_s in late)
            self._stop_idle_runs()
            alarm = self._scheduler.next_alarm()
        if alarm < self._alarm:
            self._alarm = alarm
            self._loop.call_soon_threadsafe(self._set_alarm)

    def _stop_idle_runs(self) -> None:
        """Ends the runs whose jobs are all over."""
        for worker in self._workers:
            if worker.batch is not None and all(job.is_over for job in worker.batch.jobs):
                worker.stop_run()

    def _set_alarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._alarm < inf:  # it may have rung in the meantime
            self._timer = self._loop.call_later(self._alarm - time.monotonic(), self._ring)

    def _ring(self) -> None:
        """Answers for jobs whose time for a better answer is over, whatever the workers do."""
        with self._ready:
            self._alarm = inf
            self._expire(time.monotonic())
            self._ready.notify_all()

    def _watch(self) -> None:
        """Replaces the workers that are lost; their jobs fall back on what they have."""
        now = time.monotonic()
        with self._ready:
            for worker in [w for w in self._workers if w.is_lost(now, self._stall_s)]:
                self._replace(worker, now)
        self._watcher = self._loop.call_later(WATCH_S, self._watch)

    def _replace(self, worker: Worker, now: float) -> None:
        name, batch = worker.thread.name, worker.batch
        extra = _requests_of(batch.jobs if batch else ())
        logger.error("%s is lost with %s", name, batch and batch.step, extra=extra)
        self._metrics.worker_restarted()
        self._workers.remove(worker)
        worker.stop_run()
        if batch is not None:
            batch.step.model.breakers[batch.step.exit, batch.step.is_head].failed(now)
            self._scheduler.done(batch)
            self._fall_back(batch, now)
        self._workers.add(self._new_worker())

    def _new_worker(self) -> Worker:
        return Worker(f"offramp-worker-{next(self._numbers)}", self._work)


def _requests_of(jobs: Iterable[Job]) -> dict[str, object]:
    """What a line of the log says of a batch."""
    ids = {job.demand.request_id for job in jobs}
    return {"fields": {"request_ids": sorted(filter(None, ids))}}


def _deliver(results: list[Result]) -> None:
    for job, result in results:
        job.deliver(result)


def _report(answers: list[tuple[Job, Answer]]) -> None:
    for job, said in answers:
        if job.progress is not None:
            job.progress(said)
