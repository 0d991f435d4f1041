"""What every inference route does between its request and its response, whatever the protocol."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from models.bundle.policy import Policy, policy_at, policy_of_threshold
from server.engine.job import Answer, Budget, Demand, Job, Outcome
from server.errors import BadParameter, Infeasible, Overloaded, Unavailable
from server.http.state import State
from server.telemetry.logs import request_id
from server.telemetry.metrics import SHED_REASONS
from server.telemetry.tracing import trace_segments
from server.v1.answers import milli
from server.v1.schemas import InferenceParameters
from server.zoo.catalog import DEFAULT_OPERATING_POINT, ServedModel

Result = Outcome | Exception


def policy_of(parameters: InferenceParameters, model: ServedModel) -> Policy:
    """The request's stop rule on this model; raises BadParameter."""
    num_exits = model.manifest.num_exits
    min_exit, max_exit = parameters.min_exit, parameters.max_exit or num_exits
    if max_exit > num_exits:
        raise BadParameter("max_exit", f"there are {num_exits} exits")
    if min_exit > max_exit:
        raise BadParameter("min_exit", f"exit {max_exit} is the last that may answer")
    if parameters.threshold is not None:
        if parameters.operating_point is not None:
            raise BadParameter("threshold", "excludes operating_point")
        return policy_of_threshold(
            parameters.threshold, num_exits, min_exit=min_exit, max_exit=max_exit
        )
    name = parameters.operating_point or DEFAULT_OPERATING_POINT
    if name not in model.operating_points:
        known = ", ".join(model.operating_points)
        raise BadParameter("operating_point", f"{name!r} is none of {known}")
    return policy_at(model.operating_points[name], min_exit=min_exit, max_exit=max_exit)


def demand_of(request: Request, model: ServedModel, parameters: InferenceParameters) -> Demand:
    """What the request asks for each of its images; raises BadParameter."""
    scope, policy, budget = request.scope, policy_of(parameters, model), budget_of(parameters)
    return Demand(model, policy, budget, scope["arrival"], scope["lag_s"], request_id.get())


def budget_of(parameters: InferenceParameters) -> Budget:
    """The request's budget in base units."""
    latency, energy = parameters.latency_budget_ms, parameters.energy_budget_mj
    return Budget(
        latency_s=None if latency is None else latency / 1000,
        energy_j=None if energy is None else energy / 1000,
    )


def check_feasible(demand: Demand, num_images: int) -> None:
    """Raises Infeasible where exit 1 alone is expected to cost more than the budget."""
    budget, costs = demand.budget, demand.model.costs
    cost = costs.next_answer(0, num_images)
    needed_s = cost.latency_s + costs.delivery_s
    left_s = demand.deadline - time.monotonic()
    if needed_s > left_s:
        raise Infeasible(
            f"exit 1 needs {milli(needed_s)} ms, {milli(max(left_s, 0))} ms are left",
            "latency_budget_ms",
        )
    if budget.energy_j is not None and cost.energy_j > budget.energy_j:
        raise Infeasible(f"exit 1 needs {milli(cost.energy_j)} mJ", "energy_budget_mj")


@contextmanager
def counted_if_refused(state: State, demand: Demand, num_images: int) -> Iterator[None]:
    """Counts images that are refused before any work.

    An answer would have waited for its turn on the event loop as long as the request did.
    """
    try:
        yield
    except (Overloaded, Infeasible, Unavailable) as error:
        demand.model.costs.delivered(2 * demand.lag_s)
        state.metrics.shed(SHED_REASONS[type(error)], num_images)
        if isinstance(error, Overloaded):
            state.gate.refused(demand.budget.latency_s)
        raise


class Results:
    """What becomes of each image of a request; `all` comes to have every result, in order."""

    def __init__(self, num_images: int) -> None:
        self.all: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        self._num_images = num_images
        self._results: dict[int, Result] = {}

    def settle(self, image: int, result: Result) -> None:
        """Notes the result of an image, unless nobody waits any more."""
        self._results[image] = result
        if len(self._results) == self._num_images and not self.all.done():
            self.all.set_result([self._results[number] for number in range(self._num_images)])


@dataclass(frozen=True, slots=True)
class Admitted:
    """The jobs of one request, and what becomes of them."""

    jobs: list[Job]
    results: Results

    @property
    def stage(self) -> str:
        """How far they have come, for the count of clients that went away."""
        return "segment" if any(job.exit for job in self.jobs) else "queue"


async def run(state: State, demand: Demand, images: Sequence[NDArray[np.uint8]]) -> list[Result]:
    """Admits one job per image and waits for what becomes of each, in order."""
    admitted = admit(state, demand, images)
    try:
        return await results(state, admitted)
    except asyncio.CancelledError:
        state.metrics.client_gone(admitted.stage)
        raise


def admit(
    state: State,
    demand: Demand,
    images: Sequence[NDArray[np.uint8]],
    progress: Callable[[int, Answer], None] | None = None,
) -> Admitted:
    """Admits one job per image; `progress` is told an image's number and each of its answers."""
    results = Results(len(images))
    jobs = [
        Job(demand, image, partial(results.settle, number), progress and partial(progress, number))
        for number, image in enumerate(images)
    ]
    state.engine.submit(jobs)
    return Admitted(jobs, results)


async def results(state: State, admitted: Admitted) -> list[Result]:
    """What becomes of each image. Cancelling this frees the slots of all, and counts them."""
    try:
        return await admitted.results.all
    except asyncio.CancelledError:
        state.engine.cancel(admitted.jobs)
        state.metrics.cancelled(admitted.jobs[0].model, len(admitted.jobs))
        raise


def counted(state: State, demand: Demand, results: list[Result], total_s: float) -> list[Outcome]:
    """Counts every result of a request once, `total_s` after its arrival; raises the first failure.

    As long as it waited to be started, it will have waited before, to be read.
    """
    model, responded_at = demand.model, demand.arrival + total_s
    outcomes: list[Outcome] = []
    failures: list[Exception] = []
    for result in results:
        if isinstance(result, Outcome):
            outcomes.append(result)
            state.metrics.answered(model, demand.budget, result, total_s)
            model.statistics.answered(result.queue_s, result.compute_s)
        else:
            failures.append(result)
            state.metrics.failed(model)
    if outcomes:
        trace_segments(outcomes)
        state.gate.answered()
        ended_at = max(outcome.ended_at for outcome in outcomes)
        model.costs.delivered(demand.lag_s + responded_at - ended_at)
    model.statistics.request_ended(is_success=not failures, total_s=total_s)
    if failures:
        raise failures[0]
    return outcomes
