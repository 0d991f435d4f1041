"""A scheduler with its admission, and jobs for them, all at given times."""

import numpy as np

from models.bundle.policy import policy_of_threshold
from server.engine.admission import Admission
from server.engine.job import Answer, Budget, Demand, Given, Job
from server.engine.model import ServedModel
from server.engine.scheduler import Batch, Scheduler


class Desk:
    """What the engine owns of deciding."""

    def __init__(self, max_in_flight: int = 100, num_lanes: int = 1) -> None:
        self.scheduler = Scheduler(num_lanes)
        self.admission = Admission(max_in_flight, self.scheduler)

    def admit(self, *jobs: Job, now: float = 0.0, strict: bool = False) -> None:
        """Admits the jobs of one request, which wait for a segment from now on."""
        slots = self.admission.admit(jobs[0].demand, len(jobs), now, strict=strict)
        self.admission.decoded(slots)
        for job in jobs:
            job.deadline, job.due = slots.deadline, slots.due
            self.scheduler.wait(job, now)

    def next_batch(self, now: float = 0.0) -> Batch:
        """The next batch; there must be one."""
        batch = self.scheduler.next_batch(now)
        assert batch is not None
        return batch

    def run(self, now: float = 0.0) -> Batch:
        """The next batch, as if it had run at once."""
        batch = self.next_batch(now)
        self.scheduler.done(batch)
        return batch


def demand(
    model: ServedModel,
    latency_s: float | None = None,
    arrival: float = 0.0,
    lag_s: float = 0.0,
    *,
    is_background: bool = False,
) -> Demand:
    policy, budget = policy_of_threshold(1.0, 3), Budget(latency_s)
    return Demand(model, policy, budget, arrival, lag_s, is_background=is_background)


def job_of(a_demand: Demand) -> Job:
    return Job(a_demand, Given([], 0), ignore)


def job(model: ServedModel, latency_s: float | None = None) -> Job:
    return job_of(demand(model, latency_s))


def ignore(_: object) -> None:
    pass


def answered(a_job: Job, exit: int = 1) -> Job:
    """The job as it is after an exit that was not sure."""
    a_job.exit = exit
    a_job.answers.append(Answer(exit, np.full(10, 0.1, np.float32), 0.1, at_s=0.0))
    return a_job


def unanswered(a_job: Job, exit: int) -> Job:
    """The job as it is after an exit that was not consulted."""
    a_job.exit = exit
    return a_job
