"""`POST /v1/classify`: body to images, images to jobs, outcomes to answers."""

import asyncio
import time
from functools import partial
from math import inf
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray

from models.bundle.policy import Policy, policy_at, policy_of_threshold
from server.answers import answer, milli, server_timing
from server.catalog import DEFAULT_OPERATING_POINT, ServedModel
from server.decode import MEDIA_TYPES, decode_images
from server.errors import BadParameter, Infeasible, Overloaded, Unavailable
from server.job import DELIVERY_S, Budget, Job, Outcome
from server.metrics import SHED_REASONS
from server.problems import RESPONSES
from server.reading import read
from server.schemas import Classification, Classifications, JsonBody, Parameters
from server.state import State, state_of

router = APIRouter()

BINARY = {"schema": {"type": "string", "format": "binary"}}
REQUEST_BODY = {
    "required": True,
    "content": dict.fromkeys(MEDIA_TYPES, BINARY)
    | {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": BINARY["schema"]}},
            }
        },
        "application/json": {"schema": JsonBody.model_json_schema()},
    },
}


@router.post(
    "/v1/classify",
    responses=RESPONSES,
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def classify(
    request: Request, response: Response, query: Annotated[Parameters, Query()]
) -> Classification | Classifications:
    """Classifies one image or several, each within the request's budget."""
    state = state_of(request)
    arrival: float = request.scope["arrival"]
    contents, parameters = await read(request, query, state.settings)
    model = state.catalog.find(parameters.model, parameters.version)
    policy, budget = policy_of(parameters, model), budget_of(parameters)
    try:
        if parameters.strict:
            check_feasible(model, budget, arrival, len(contents))
        state.engine.check_room(len(contents))
        images, decode_s = await decode(state, model, contents)
        results = await run(state, model, policy, budget, arrival, images)
    except (Overloaded, Infeasible, Unavailable) as error:
        state.metrics.shed(SHED_REASONS[type(error)], len(contents))
        raise
    total_s = time.monotonic() - arrival
    outcomes = counted(state, model, budget, results, total_s)
    response.headers["Server-Timing"] = server_timing(decode_s, outcomes)
    answers = [answer(model, parameters, budget, o, arrival, total_s) for o in outcomes]
    return answers[0] if len(answers) == 1 else Classifications(results=answers)


def policy_of(parameters: Parameters, model: ServedModel) -> Policy:
    """The request's stop rule on this model; raises BadParameter."""
    num_exits, num_labels = model.manifest.num_exits, len(model.manifest.labels)
    min_exit, max_exit = parameters.min_exit, parameters.max_exit or num_exits
    if parameters.top_k > num_labels:
        raise BadParameter("top_k", f"there are {num_labels} labels")
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


def budget_of(parameters: Parameters) -> Budget:
    """The request's budget in base units."""
    latency, energy = parameters.latency_budget_ms, parameters.energy_budget_mj
    return Budget(
        latency_s=None if latency is None else latency / 1000,
        energy_j=None if energy is None else energy / 1000,
    )


def check_feasible(model: ServedModel, budget: Budget, arrival: float, rows: int) -> None:
    """Raises Infeasible where exit 1 alone is expected to cost more than the budget."""
    cost = model.costs.next_answer(0, rows)
    needed_s = cost.latency_s + DELIVERY_S
    left_s = inf if budget.latency_s is None else arrival + budget.latency_s - time.monotonic()
    if needed_s > left_s:
        raise Infeasible(
            f"exit 1 needs {milli(needed_s)} ms, {milli(max(left_s, 0))} ms are left",
            "latency_budget_ms",
        )
    if budget.energy_j is not None and cost.energy_j > budget.energy_j:
        raise Infeasible(f"exit 1 needs {milli(cost.energy_j)} mJ", "energy_budget_mj")


async def decode(
    state: State, model: ServedModel, contents: list[bytes]
) -> tuple[list[NDArray[np.uint8]], float]:
    """Decodes off the event loop."""
    loop = asyncio.get_running_loop()
    target, max_pixels = model.manifest.input, state.settings.max_image_pixels
    images, seconds = await loop.run_in_executor(
        state.decoders, decode_images, contents, target, max_pixels
    )
    state.metrics.decoded(seconds)
    return images, seconds


async def run(
    state: State,
    model: ServedModel,
    policy: Policy,
    budget: Budget,
    arrival: float,
    images: list[NDArray[np.uint8]],
) -> list[Outcome | BaseException]:
    """Admits one job per image and waits for what becomes of each, in order."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in images]
    jobs = [
        Job(model, policy, budget, arrival, image, partial(settle, future))
        for image, future in zip(images, futures, strict=True)
    ]
    state.engine.submit(jobs)
    return await asyncio.gather(*futures, return_exceptions=True)


def settle(future: asyncio.Future[Outcome], result: Outcome | Exception) -> None:
    """Completes a request's future, unless its client went away."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def counted(
    state: State,
    model: ServedModel,
    budget: Budget,
    results: list[Outcome | BaseException],
    total_s: float,
) -> list[Outcome]:
    """Counts every result once; raises the first failure where there is any."""
    outcomes: list[Outcome] = []
    failures: list[BaseException] = []
    for result in results:
        if isinstance(result, Outcome):
            outcomes.append(result)
            state.metrics.answered(model, budget, result, total_s)
        else:
            failures.append(result)
            state.metrics.failed(model)
    if failures:
        raise failures[0]
    return outcomes
