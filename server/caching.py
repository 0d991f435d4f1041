"""The service where answers are kept: a request is looked up before it is admitted and decoded."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from server.cache import Cache, digests_of
from server.engine.job import Demand, Given, Job
from server.running import Encoded, Progress, Results, Running, Served
from server.service import Service

SMALL_BYTES = 65_536
"""Sources of up to so many bytes are digested faster than a thread wakes."""


@dataclass(frozen=True, kw_only=True)
class CachingService(Service):
    """Answers from the cache where it can answer for every row of a request, and fills it."""

    cache: Cache
    refuses_unread: ClassVar[bool] = False  # its answer may be kept

    async def start(
        self,
        demand: Demand,
        encoded: Encoded,
        progress: Progress | None = None,
        *,
        strict: bool = False,
    ) -> Running:
        """A request that is found needs no slot, is not decoded and has its results at once."""
        digests = await self._digests(encoded)
        found = self.cache.find(demand, digests, time.monotonic())
        self.metrics.looked_up(demand.model, len(digests), is_hit=found is not None)
        if found is None:
            running = await super().start(demand, encoded, progress, strict=strict)
            running.digests = digests
            return running
        jobs, results = [], Results(len(found))
        for number, (outcome, is_cut) in enumerate(found):
            given = Given([], 0, is_cut=is_cut)
            jobs.append(Job(demand, given, partial(results.settle, number), is_over=True))
            results.settle(number, outcome)
            if progress is not None:
                for answer in outcome.answers:
                    progress(number, answer)
        return Running(demand, jobs, results, 0.0)

    async def finish(self, running: Running) -> Served:
        """Keeps what was computed, unless its model was unloaded or replaced meanwhile."""
        served = await super().finish(running)
        served.is_cached = not running.digests
        model = running.demand.model
        if self.repository.catalog.get(model.key) is model:
            rows = zip(running.digests, served.outcomes, served.are_cut, strict=False)
            for digest, outcome, is_cut in rows:
                self.cache.keep(model, digest, outcome.answers, is_cut=is_cut)
        return served

    async def _digests(self, encoded: Encoded) -> Sequence[bytes]:
        sources = encoded.sources()
        if sum(map(len, sources)) <= SMALL_BYTES:
            return digests_of(sources)
        return await self.on_thread(partial(digests_of, sources))
