"""Worker threads that take batches from the scheduler, run them and apply the stop rule.

Nothing here runs on the event loop but the delivery of outcomes.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from math import inf

import numpy as np

from models.bundle.confidence import calibrated_probabilities, confidence
from models.bundle.policy import StopReason
from models.bundle.runner import Arrays
from server.catalog import ServedModel
from server.errors import SegmentFailed
from server.job import Answer, Job, Outcome
from server.metrics import Metrics
from server.scheduler import Batch, Scheduler, Step
from server.verdict import judge

logger = logging.getLogger("offramp.engine")
Result = tuple[Job, Outcome | Exception]


class Engine:
    """Runs admitted jobs to their outcomes on a fixed set of threads."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self._scheduler, self._metrics = scheduler, metrics
        self._alarm = inf
        self._timer: asyncio.TimerHandle | None = None
        self._ready = threading.Condition()
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, name=f"offramp-worker-{i}", daemon=True)
            for i in range(scheduler.num_workers)
        ]
        for thread in self._threads:
            thread.start()

    def check_room(self, num_jobs: int) -> None:
        """Raises Overloaded where `num_jobs` more would not be admitted now."""
        with self._ready:
            self._scheduler.check_room(num_jobs)

    def submit(self, jobs: list[Job]) -> None:
        """Admits every job or none; raises Overloaded. Outcomes come through `Job.deliver`."""
        with self._ready:
            self._scheduler.admit(jobs, time.monotonic())
            self._ready.notify(len(jobs))

    def cancel(self, jobs: list[Job]) -> None:
        """Nobody wants these answers any more: no further segment runs for them."""
        with self._ready:
            for job in jobs:
                job.is_cancelled = True
            self._scheduler.finish(sum(map(self._scheduler.leave, jobs)))

    def queue_depth(self) -> int:
        with self._ready:
            return self._scheduler.queue_depth

    def in_flight(self) -> int:
        with self._ready:
            return self._scheduler.in_flight

    def stop(self) -> None:
        """Lets the workers finish every admitted job, then ends them."""
        with self._ready:
            self._is_stopping = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            going_on, results = self._run(batch)
            with self._ready:
                results += self._hand_back(batch, going_on, len(results))
            if results:
                self._loop.call_soon_threadsafe(_deliver, results)

    def _next_batch(self) -> Batch | None:
        """The next batch, waiting for one; None once stopping and no job is left."""
        with self._ready:
            while (batch := self._scheduler.next_batch(time.monotonic())) is None:
                if self._is_stopping and self._scheduler.in_flight == 0:
                    return None
                self._ready.wait()
            return batch

    def _hand_back(self, batch: Batch, going_on: list[Job], num_ended: int) -> list[Result]:
        """Returns a batch to the scheduler; gives the results of whoever must answer now."""
        now = time.monotonic()
        self._scheduler.done(batch)
        for job in going_on:
            if job.is_cancelled:
                num_ended += 1
            else:
                self._scheduler.wait(job, now)
        self._scheduler.finish(num_ended)
        self._ready.notify_all()
        return self._expire(now)

    def _expire(self, now: float) -> list[Result]:
        """Results of the jobs that have waited too long; sets the alarm for the next ones."""
        late = self._scheduler.expire(now)
        self._scheduler.finish(len(late))
        alarm = self._scheduler.next_alarm()
        if alarm < self._alarm:
            self._alarm = alarm
            self._loop.call_soon_threadsafe(self._set_alarm)
        return [(job, job.outcome(StopReason.DEADLINE)) for job in late]

    def _set_alarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._alarm < inf:  # it may have rung in the meantime
            self._timer = self._loop.call_later(self._alarm - time.monotonic(), self._ring)

    def _ring(self) -> None:
        """Answers for jobs whose time for a better answer is over, whatever the workers do."""
        with self._ready:
            self._alarm = inf
            results = self._expire(time.monotonic())
            self._ready.notify_all()
        _deliver(results)

    def _run(self, batch: Batch) -> tuple[list[Job], list[Result]]:
        """Runs a step for a batch; returns the jobs that go on and those that ended."""
        step, jobs = batch.step, batch.jobs
        name = step.model.manifest.name
        start = time.monotonic()
        for job in jobs:
            job.queue_s += start - job.waiting_since
        try:
            if not step.is_head:
                self._advance(step, jobs)
            going_on, ended = judge(batch, time.monotonic(), partial(self._answer, step))
        except Exception:
            logger.exception("segment or exit head %d of %s failed", step.exit, name)
            return [], [self._fall_back(job) for job in jobs]
        try:
            self._count(batch)
        except Exception:  # an answer is worth more than its count
            logger.exception("a batch was not counted")
        return going_on, [(job, job.outcome(reason)) for job, reason in ended]

    def _count(self, batch: Batch) -> None:
        step, jobs = batch.step, batch.jobs
        if not step.is_head:
            self._metrics.segment_ran(step.model, step.exit, len(jobs), jobs[0].segment_s[-1])
        confidences = [j.answers[-1].confidence for j in jobs if j.has_answer_at(step.exit)]
        self._metrics.head_ran(step.model, step.exit, confidences)

    def _advance(self, step: Step, jobs: list[Job]) -> None:
        """Runs the segment and hands every job its row of the features."""
        model, exit = step.model, step.exit
        start = time.monotonic()
        outputs = model.runner.run_segment(exit, gather([job.features for job in jobs]))
        seconds = time.monotonic() - start
        for row, job in enumerate(jobs):
            job.exit = exit
            job.features = [array[row : row + 1] for array in outputs]
            job.macs += model.manifest.segments[exit - 1].macs
            job.segment_s.append(seconds)
        model.costs.segment_took(exit, len(jobs), seconds)
        self._charge(model, jobs, seconds)

    def _answer(self, step: Step, jobs: list[Job]) -> float:
        """Runs the exit head on the features the jobs hold, and records what it said, and when."""
        model, exit = step.model, step.exit
        start = time.monotonic()
        logits = model.runner.run_head(exit, gather([job.features for job in jobs]))
        temperature = model.bundle.calibration.exits[exit - 1].calibration_temperature
        probabilities = calibrated_probabilities(logits, temperature)
        now = time.monotonic()
        confidences = confidence(probabilities).tolist()
        for job, row, value in zip(jobs, probabilities, confidences, strict=True):
            job.answers.append(Answer(exit, row, value, now))
            job.macs += model.manifest.exit_heads[exit - 1].macs
        model.costs.head_took(exit, len(jobs), now - start)
        self._charge(model, jobs, now - start)
        return now

    def _charge(self, model: ServedModel, jobs: list[Job], busy_s: float) -> None:
        energy_j = model.costs.energy_j(busy_s, len(jobs))
        for job in jobs:
            job.compute_s += busy_s
            job.energy_j += energy_j

    def _fall_back(self, job: Job) -> Result:
        """After a failure: the last finished exit's answer, or the failure where there is none."""
        name = job.model.manifest.name
        if job.exit == 0:
            return job, SegmentFailed(f"segment 1 of {name} failed")
        try:
            if not job.answers:
                self._answer(Step(job.model, job.exit), [job])
            return job, job.outcome(StopReason.DEGRADED)
        except Exception:
            logger.exception("exit head %d of %s failed", job.exit, name)
            return job, SegmentFailed(f"{name} failed before any exit answered")


def gather(features: Sequence[Arrays]) -> Arrays:
    """The rows of several jobs as one batch, without a copy where there is only one."""
    if len(features) == 1:
        return features[0]
    return [np.concatenate(parts) for parts in zip(*features, strict=True)]


def _deliver(results: list[Result]) -> None:
    for job, result in results:
        job.deliver(result)
