"""The ingress's engine: sends jobs to replicas, and to others when those die."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable

from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from deploy.ray.work import shifted, work_of
from server.engine.admission import Slots, first_step
from server.engine.job import Demand, Job, Outcome
from server.engine.pace import Pace
from server.errors import Overloaded, Unavailable

logger = logging.getLogger("offramp.ray")
ATTEMPTS = 5
"""Answering has no side effects: if a replica dies, another can answer the same request."""
PAUSE_S = 0.2


class RemoteEngine:
    """What the routes know of an engine, on behalf of all replicas."""

    def __init__(self, replicas: DeploymentHandle, capacity: int) -> None:
        self.pace = Pace()
        self._replicas, self._capacity = replicas, capacity
        self._in_flight = Counter[bool]()  # in the background or not: each has slots of its own
        self._strict: set[Slots] = set()
        self._tasks: dict[Job, asyncio.Task[None]] = {}

    def admit(self, demand: Demand, num_rows: int, *, strict: bool = False) -> Slots:
        """Raises Overloaded where the ingress would have too many on their way.

        Whether there is time for them, a replica says once it has them.
        """
        taken = self._in_flight[demand.is_background]
        if taken + num_rows > self._capacity:
            raise Overloaded(f"{taken} of {self._capacity} slots are taken")
        self._in_flight[demand.is_background] += num_rows
        slots = Slots(demand, num_rows, first_step(demand))
        if strict:
            self._strict.add(slots)
        return slots

    def refused_again(self, error: Overloaded, lag_s: float) -> None:
        """Replicas learn from the requests that they get."""

    def submit(self, slots: Slots, jobs: list[Job]) -> None:
        """Sends jobs of one request; refusals, too, come through `Job.deliver`."""
        task = asyncio.get_running_loop().create_task(self._send(slots, jobs))
        self._tasks |= dict.fromkeys(jobs, task)
        task.add_done_callback(lambda _: self._sent(slots, jobs))

    def release(self, slots: Slots) -> None:
        """Gives back the slots of a request."""
        self._in_flight[slots.demand.is_background] -= slots.num_rows
        self._strict.discard(slots)

    def cancel(self, jobs: Iterable[Job]) -> None:
        """The replica hears of it, too."""
        for job in jobs:
            if (task := self._tasks.get(job)) is not None:
                task.cancel()

    def queue_depth(self) -> int:
        """Nothing waits here; replicas have queues and metrics of their own."""
        return 0

    def in_flight(self) -> int:
        return self._in_flight[False]

    def waited_s(self, now: float) -> float:  # noqa: ARG002
        """No batch runs here that a request could wait for."""
        return 0.0

    def is_working(self) -> bool:
        """Ray watches over the replicas."""
        return True

    def hurry(self) -> None:
        """Ray ends what takes too long."""

    def stop(self) -> None:
        """Ray lets requests end before it ends the ingress."""

    async def _send(self, slots: Slots, jobs: list[Job]) -> None:
        results = await self._results(jobs, strict=slots in self._strict)
        for job, result in zip(jobs, results, strict=True):
            if job.progress is not None and isinstance(result, Outcome):
                for answer in result.answers:  # all at once: a replica answers when it has ended
                    job.progress(answer)
            job.deliver(result)

    def _sent(self, slots: Slots, jobs: list[Job]) -> None:
        self.release(slots)
        for job in jobs:
            del self._tasks[job]

    async def _results(self, jobs: list[Job], *, strict: bool) -> list[Outcome | Exception]:
        for _ in range(ATTEMPTS):
            sent = time.monotonic()
            # the engine sees neither the way there nor the way back
            work = work_of(jobs, sent + self.pace.delivery_s, strict=strict)
            try:
                results = await self._replicas.answer.remote(work)
                return [
                    shifted(each, sent) if isinstance(each, Outcome) else each for each in results
                ]
            except RayTaskError as error:  # the engine's own
                return [error.cause] * len(jobs)
            except BackPressureError:
                return [Overloaded("every replica's queue is full")] * len(jobs)
            except Exception as error:  # the replica died, or its node, or none is left
                logger.warning("a replica did not answer: %r", error)
                await asyncio.sleep(PAUSE_S)
        return [Unavailable("no replica stays alive")] * len(jobs)
