"""An engine that answers for others: the server's own, in a Ray Serve replica."""

import asyncio
import time
from functools import partial

from ray.serve import metrics as ray_metrics

from deploy.ray.work import Work, shifted
from server.app import load_catalog, local_engine
from server.errors import Unavailable
from server.inference import Result, Results
from server.job import Demand, Job, Outcome
from server.metrics import Metrics
from server.settings import load_settings

REPORT_S = 1.0


class EngineReplica:
    """Settings and bundles are those of the node it runs on. Ray adds its name to its metrics."""

    def __init__(self) -> None:
        settings, metrics = load_settings(), Metrics()
        self._catalog = load_catalog(settings, metrics)
        self._engine = local_engine(settings, metrics)
        self._depth = ray_metrics.Gauge("offramp_replica_queue_depth", "Images waiting")
        self._in_flight = ray_metrics.Gauge("offramp_replica_in_flight", "Images not yet answered")
        self._exits = ray_metrics.Counter(
            "offramp_replica_exits", "Answers given at each exit", ("model", "exit")
        )
        self._report()

    async def answer(self, work: Work) -> list[Result]:
        """What becomes of each image; raises what the engine raises. Times count from here."""
        model = self._catalog.find(work.model, work.version)
        now = time.monotonic()
        demand, results = Demand(model, work.policy, work.budget, now), Results(len(work.images))
        jobs = [
            Job(demand, image, partial(results.settle, number))
            for number, image in enumerate(work.images)
        ]
        self._engine.submit(jobs)
        try:
            ended = await results.all
        except asyncio.CancelledError:
            self._engine.cancel(jobs)
            raise
        return [self._counted(work.model, result, now) for result in ended]

    def check_health(self) -> None:
        """Ray replaces a replica that raises."""
        if not self._engine.is_working():
            raise Unavailable("a worker hangs")

    def _counted(self, model: str, result: Result, start: float) -> Result:
        if not isinstance(result, Outcome):
            return result
        self._exits.inc(tags={"model": model, "exit": str(result.answer.exit)})
        return shifted(result, -start)

    def _report(self) -> None:
        self._depth.set(self._engine.queue_depth())
        self._in_flight.set(self._engine.in_flight())
        asyncio.get_running_loop().call_later(REPORT_S, self._report)
