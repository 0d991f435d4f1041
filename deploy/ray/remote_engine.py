"""The ingress's engine: sends jobs to replicas, and to others when those die."""

import asyncio
import time
from collections.abc import Iterable

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from deploy.ray.work import shifted, work_of
from server.engine.job import Demand, Job, Outcome
from server.errors import Overloaded, Unavailable

ATTEMPTS = 5
"""Answering is pure: whoever died in the middle of it can be followed by another."""
PAUSE_S = 0.2


class RemoteEngine:
    """What the routes know of an engine, on behalf of all replicas."""

    def __init__(self, replicas: DeploymentHandle, capacity: int) -> None:
        self._replicas, self._capacity = replicas, capacity
        self._tasks: dict[Job, asyncio.Task[None]] = {}

    def check(self, demand: Demand, num_images: int) -> None:  # noqa: ARG002
        """Raises Overloaded where the ingress would have too many on their way."""
        self._check_room(num_images)

    def _check_room(self, num_jobs: int) -> None:
        if self.in_flight() + num_jobs > self._capacity:
            raise Overloaded(f"{self.in_flight()} of {self._capacity} slots are taken")

    def submit(self, jobs: list[Job]) -> None:
        """Sends jobs of one request; refusals, too, come through `Job.deliver`."""
        self._check_room(len(jobs))
        task = asyncio.get_running_loop().create_task(self._send(jobs))
        self._tasks |= dict.fromkeys(jobs, task)

    def cancel(self, jobs: Iterable[Job]) -> None:
        """The replica hears of it, too."""
        for job in jobs:
            if (task := self._tasks.get(job)) is not None:
                task.cancel()

    def queue_depth(self) -> int:
        """Nothing waits here; replicas have queues and metrics of their own."""
        return 0

    def in_flight(self) -> int:
        return len(self._tasks)

    def is_working(self) -> bool:
        """Ray watches over the replicas."""
        return True

    def hurry(self) -> None:
        """Ray ends what takes too long."""

    def stop(self) -> None:
        """Ray lets requests end before it ends the ingress."""

    async def _send(self, jobs: list[Job]) -> None:
        try:
            results = await self._results(jobs)
        finally:
            for job in jobs:
                del self._tasks[job]
        for job, result in zip(jobs, results, strict=True):
            job.deliver(result)

    async def _results(self, jobs: list[Job]) -> list[Outcome | Exception]:
        for _ in range(ATTEMPTS):
            sent = time.monotonic()
            try:
                results = await self._replicas.answer.remote(work_of(jobs, sent))
                return [
                    shifted(each, sent) if isinstance(each, Outcome) else each for each in results
                ]
            except RayTaskError as error:  # the engine's own
                return [error.cause] * len(jobs)
            except BackPressureError:
                return [Overloaded("every replica's queue is full")] * len(jobs)
            except RayError:  # the replica died, or its node
                await asyncio.sleep(PAUSE_S)
        return [Unavailable("no replica stays alive")] * len(jobs)
