"""The service: find the model, admit, decode, run, count. Edges call it and only translate."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol, TypeVar

from starlette.requests import HTTPConnection

from server.engine.admission import Slots, first_step
from server.engine.job import Demand, Job, Outcome
from server.engine.model import ServedModel
from server.engine.pace import Pace
from server.errors import Infeasible, Overloaded, Unavailable
from server.gate import Gate
from server.parameters import InferenceParameters, budget_of, policy_of
from server.running import Encoded, Progress, Result, Results, Rows, Running, Served
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.telemetry.requests import BACKGROUND, shed_reason
from server.telemetry.tracing import trace_segments
from server.zoo.repository import Repository

T = TypeVar("T")


class Answering(Protocol):
    """An engine, here or elsewhere."""

    pace: Pace

    def admit(self, demand: Demand, num_rows: int, *, strict: bool = False) -> Slots: ...
    def refused_again(self, error: Overloaded, lag_s: float) -> None: ...
    def submit(self, slots: Slots, jobs: list[Job]) -> None: ...
    def release(self, slots: Slots) -> None: ...
    def cancel(self, jobs: Sequence[Job]) -> None: ...
    def queue_depth(self) -> int: ...
    def in_flight(self) -> int: ...
    def waited_s(self, now: float) -> float: ...
    def is_working(self) -> bool: ...
    def hurry(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Service:
    """The running server, for any protocol."""

    settings: Settings
    metrics: Metrics
    repository: Repository
    engine: Answering
    decoders: Executor
    gate: Gate
    refuses_unread: ClassVar[bool] = True
    """Whether a request may be refused before its body is looked at."""

    def find(self, name: str | None, version: int | None) -> ServedModel:
        """The model that is asked for; raises UnknownModel or NotReady."""
        return self.repository.find(name, version)

    def demand(
        self,
        model: ServedModel,
        parameters: InferenceParameters,
        arrival: float,
        lag_s: float,
        request_id: str,
    ) -> Demand:
        """The demand of a request's rows; raises BadParameter."""
        policy, budget = policy_of(parameters, model), budget_of(parameters)
        is_background = parameters.is_background
        return Demand(model, policy, budget, arrival, lag_s, request_id, is_background)

    def refused_again(self, error: Overloaded, lag_s: float) -> None:
        """Counts a request that was refused unread, since another like it just was."""
        self.engine.refused_again(error, lag_s)
        self.metrics.shed(shed_reason(error), 1)

    def decoded_by(self, demand: Demand, num_rows: int) -> float:
        """The monotonic instant by which rows must be decoded for exit 1 to meet the deadline."""
        exit_s = first_step(demand).costs.next_answer(0, num_rows).latency_s
        return demand.deadline - exit_s - self.engine.pace.delivery_s

    async def classify(self, demand: Demand, encoded: Encoded, *, strict: bool = False) -> Served:
        """Runs every row to its outcome; raises the refusal, or the first row's failure."""
        running = await self.start(demand, encoded, strict=strict)
        try:
            return await self.finish(running)
        except asyncio.CancelledError:
            self.metrics.client_gone(running.stage)
            raise

    async def start(
        self,
        demand: Demand,
        encoded: Encoded,
        progress: Progress | None = None,
        *,
        strict: bool = False,
    ) -> Running:
        """Admits and decodes a request. `progress` is told a row's number and its answers."""
        demand.length = encoded.length
        try:
            slots = self.engine.admit(demand, encoded.num_rows, strict=strict)
            started = time.monotonic()
            try:
                rows = await self._decoded(encoded)
            except BaseException:
                self.engine.release(slots)
                raise
            decode_s = time.monotonic() - started
            self.metrics.decoded(decode_s)
            results = Results(len(rows))
            jobs = [
                Job(
                    demand,
                    row,
                    partial(results.settle, number),
                    progress and partial(progress, number),
                )
                for number, row in enumerate(rows)
            ]
            self.engine.submit(slots, jobs)
        except (Overloaded, Infeasible, Unavailable) as error:  # before any work
            self._shed(demand, error, encoded.num_rows)
            raise
        return Running(demand, jobs, results, decode_s)

    async def finish(self, running: Running) -> Served:
        """Waits for the results of all rows, and raises the refusal, or the first row's failure.

        Cancelling it frees the slots of all.
        """
        try:
            results = await running.results.all
        except asyncio.CancelledError:
            self.engine.cancel(running.jobs)
            self.metrics.cancelled(running.demand.model, len(running.jobs))
            raise
        if isinstance(results[0], Overloaded | Infeasible):  # by an engine that is elsewhere
            self._shed(running.demand, results[0], len(results))
            raise results[0]
        total_s = time.monotonic() - running.demand.arrival
        outcomes = self._counted(running.demand, results, total_s)
        are_cut = [job.given.is_cut for job in running.jobs]
        return Served(running.demand, outcomes, running.decode_s, total_s, are_cut)

    def _shed(self, demand: Demand, error: Exception, num_rows: int) -> None:
        """Counts a refusal by rows; in the background by requests, since alerts subtract those."""
        if demand.is_background and isinstance(error, Overloaded):
            self.metrics.shed(BACKGROUND, 1)
        else:
            self.metrics.shed(shed_reason(error), num_rows)

    async def _decoded(self, encoded: Encoded) -> Rows:
        if (rows := encoded.decode_here()) is not None:
            return rows
        return [row for part in encoded.parts() for row in await self.on_thread(part)]

    async def on_thread(self, step: Callable[[], T], stage: str = "decode") -> T:
        """The result of a step before or after the engine, taken by a decoder's thread."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.decoders, step)
        except asyncio.CancelledError:
            self.metrics.client_gone(stage)
            raise

    def _counted(self, demand: Demand, results: list[Result], total_s: float) -> list[Outcome]:
        """Counts every result of a request once; raises the first failure."""
        outcomes = [result for result in results if isinstance(result, Outcome)]
        failures = [result for result in results if not isinstance(result, Outcome)]
        self.metrics.served(
            demand.model,
            demand.budget,
            outcomes,
            len(failures),
            total_s,
            is_timed=not demand.is_background,
        )
        if outcomes and outcomes[0].runs:  # kept ones have none
            if self.settings.telemetry.traces:
                trace_segments(outcomes)
            if not demand.is_background:
                ended_at = max(outcome.ended_at for outcome in outcomes)
                self.engine.pace.delivered(demand.arrival + total_s - ended_at)
        if failures:
            raise failures[0]
        return outcomes

    def reason_against(self) -> str | None:
        """The reason why the server cannot answer now, or None."""
        if self.gate.is_draining:
            return "draining"
        if not self.engine.is_working():
            return "a lane is lost"
        if not self.repository.catalog.names():
            return "no model is served"
        now = time.monotonic()
        reasons = [model.reason_against(now) for model in self.repository.catalog]
        return reasons[0] if all(reasons) else None  # the others serve


def service_of(request: HTTPConnection) -> Service:
    """The service that a FastAPI request belongs to."""
    service: Service = request.app.state.service
    return service
