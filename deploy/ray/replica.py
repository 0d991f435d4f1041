"""An engine that answers for others: the server's own, in a Ray Serve replica."""

import asyncio
import time
from functools import partial

from deploy.ray.exporting import Exporter
from deploy.ray.work import Work, shifted
from server.app import load_catalog, local_engine
from server.engine.job import Demand, Job, Outcome
from server.errors import Unavailable
from server.running import Result, Results
from server.settings import NUM_CORES, load_settings
from server.telemetry.metrics import Metrics


class EngineReplica:
    """Settings and bundles are those of the node it runs on. Its metrics leave through Ray."""

    def __init__(self) -> None:
        # one worker unless OFFRAMP_WORKERS says otherwise: Serve gives a replica one CPU
        settings, metrics = load_settings(processes=NUM_CORES), Metrics()
        self._catalog = load_catalog(settings, metrics)
        self._engine = local_engine(settings, metrics)
        metrics.watch(
            self._engine.queue_depth, self._engine.in_flight, settings.limits.max_in_flight
        )
        Exporter(metrics.registry).report()

    async def answer(self, work: Work) -> list[Result]:
        """What becomes of each row; raises what the engine raises. Times count from here."""
        model = self._catalog.find(work.model, work.version)
        now = time.monotonic()
        demand = Demand(model, work.policy, work.budget, now, is_background=work.is_background)
        demand.length = work.length
        results = Results(len(work.rows))
        jobs = [
            Job(demand, row, partial(results.settle, number))
            for number, row in enumerate(work.rows)
        ]
        slots = self._engine.admit(demand, len(jobs), strict=work.strict)
        self._engine.submit(slots, jobs)
        try:
            ended = await results.all
        except asyncio.CancelledError:
            self._engine.cancel(jobs)
            raise
        return [shifted(each, -now) if isinstance(each, Outcome) else each for each in ended]

    def check_health(self) -> None:
        """Ray replaces a replica that raises."""
        if not self._engine.is_working():
            raise Unavailable("a lane hangs")
