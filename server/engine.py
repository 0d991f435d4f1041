"""Worker threads that take batches from the scheduler, run them and apply the stop rule.

Nothing here runs on the event loop but the delivery of outcomes.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence

import numpy as np

from models.bundle.confidence import calibrated_probabilities, confidence
from models.bundle.policy import StopReason, limit_reason, runs_head, stop_reason
from models.bundle.runner import Arrays
from server.catalog import ServedModel
from server.errors import SegmentFailed
from server.job import Answer, Job, Outcome
from server.metrics import Metrics
from server.scheduler import Batch, Scheduler

logger = logging.getLogger("offramp.engine")
Result = tuple[Job, Outcome | Exception]


class Engine:
    """Runs admitted jobs to their outcomes on a fixed set of threads."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics, num_workers: int) -> None:
        self._scheduler, self._metrics = scheduler, metrics
        self._ready = threading.Condition()
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, name=f"offramp-worker-{i}", daemon=True)
            for i in range(num_workers)
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
                now = time.monotonic()
                for job in going_on:
                    self._scheduler.wait(job, now)
                self._scheduler.finish(len(results))
                self._ready.notify_all()
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

    def _run(self, batch: Batch) -> tuple[list[Job], list[Result]]:
        """Runs one segment for a batch; returns the jobs that go on and those that ended."""
        model, exit, jobs = batch.model, batch.exit, batch.jobs
        try:
            seconds = self._advance(batch)
            going_on, results = self._decide(model, exit, jobs)
        except Exception:
            logger.exception("segment or exit head %d of %s failed", exit, model.manifest.name)
            return [], [self._fall_back(job) for job in jobs]
        confidences = [job.answers[-1].confidence for job in jobs if job.has_answer_at(exit)]
        try:
            self._metrics.segment_ran(model, exit, len(jobs), seconds, confidences)
        except Exception:  # an answer is worth more than its count
            logger.exception("a batch was not counted")
        return going_on, results

    def _advance(self, batch: Batch) -> float:
        """Runs the segment and hands every job its row of the features; returns the seconds."""
        model, exit, jobs = batch.model, batch.exit, batch.jobs
        start = time.monotonic()
        for job in jobs:
            job.queue_s += start - job.waiting_since
        outputs = model.runner.run_segment(exit, gather([job.features for job in jobs]))
        seconds = time.monotonic() - start
        for row, job in enumerate(jobs):
            job.exit = exit
            job.features = [array[row : row + 1] for array in outputs]
            job.macs += model.manifest.segments[exit - 1].macs
            job.segment_s.append(seconds)
        self._charge(model, jobs, seconds)
        return seconds

    def _decide(
        self, model: ServedModel, exit: int, jobs: list[Job]
    ) -> tuple[list[Job], list[Result]]:
        """The stop rule, after segment `exit`; runs the exit head for the jobs that need it."""
        now = time.monotonic()
        limits = {job: self._limit(job, len(jobs), now) for job in jobs}
        answering: list[Job] = []
        going_on: list[Job] = []
        for job in jobs:
            needs_head = runs_head(job.policy, exit, limits[job])
            (answering if needs_head else going_on).append(job)
        if answering:
            self._answer(model, exit, answering)
        now = time.monotonic()
        results: list[Result] = []
        for job in answering:
            limit = limits[job] or self._limit(job, len(jobs), now)
            reason = stop_reason(job.policy, exit, job.answers[-1].confidence, limit)
            if reason is None:
                going_on.append(job)
            else:
                results.append((job, job.outcome(reason)))
        return going_on, results

    def _limit(self, job: Job, rows: int, now: float) -> StopReason | None:
        num_exits = job.model.manifest.num_exits
        next_exit = min(job.exit, num_exits - 1)
        next_cost = job.model.costs.next_answer(next_exit, rows)
        return limit_reason(job.policy, job.exit, job.left(now), next_cost)

    def _answer(self, model: ServedModel, exit: int, jobs: list[Job]) -> None:
        """Runs exit head `exit` on the features the jobs hold, and records what it said."""
        start = time.monotonic()
        logits = model.runner.run_head(exit, gather([job.features for job in jobs]))
        temperature = model.bundle.calibration.exits[exit - 1].calibration_temperature
        probabilities = calibrated_probabilities(logits, temperature)
        now = time.monotonic()
        confidences = confidence(probabilities).tolist()
        for job, row, value in zip(jobs, probabilities, confidences, strict=True):
            job.answers.append(Answer(exit, row, value, now))
            job.macs += model.manifest.exit_heads[exit - 1].macs
        self._charge(model, jobs, now - start)

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
                self._answer(job.model, job.exit, [job])
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
