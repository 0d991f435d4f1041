"""`POST /v1/classify`: body to images, images to jobs, outcomes to answers."""

import asyncio
import time
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray

from models.bundle.policy import Policy, policy_at, policy_of_threshold
from server.answers import answer, server_timing
from server.catalog import DEFAULT_OPERATING_POINT, ServedModel
from server.decode import MEDIA_TYPES, decode_image
from server.job import Budget, Job, Outcome
from server.problems import BadParameter, Infeasible, UnknownModel
from server.reading import read
from server.scheduler import Overloaded
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


@router.post("/v1/classify", openapi_extra={"requestBody": REQUEST_BODY})
async def classify(
    request: Request, response: Response, query: Annotated[Parameters, Query()]
) -> Classification | Classifications:
    """Classifies one image or several, each within the request's budget."""
    state = state_of(request)
    arrival: float = request.scope["arrival"]
    contents, parameters = await read(request, query, state.settings)
    model = find(state, parameters)
    policy, budget = policy_of(parameters, model), budget_of(parameters)
    if parameters.strict:
        check_feasible(state, model, budget, arrival, len(contents))
    started = time.monotonic()
    images = await asyncio.get_running_loop().run_in_executor(
        state.decoders, decode_all, contents, model, state.settings.max_image_pixels
    )
    decode_s = time.monotonic() - started
    state.metrics.decoded(decode_s)
    outcomes = await run(state, model, policy, budget, arrival, images)
    response.headers["Server-Timing"] = server_timing(decode_s, outcomes)
    answers = [answer(model, parameters, budget, arrival, outcome) for outcome in outcomes]
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


def find(state: State, parameters: Parameters) -> ServedModel:
    """The model the request names; raises UnknownModel."""
    model = state.catalog.find(parameters.model, parameters.version)
    if model is None:
        served = ", ".join(f"{m.manifest.name} version {m.manifest.version}" for m in state.catalog)
        raise UnknownModel(f"no such model; served are {served}")
    return model


def check_feasible(
    state: State, model: ServedModel, budget: Budget, arrival: float, rows: int
) -> None:
    """Raises Infeasible where exit 1 alone is expected to cost more than the budget."""
    cost = model.costs.next_answer(0, rows)
    left_s = None if budget.latency_s is None else arrival + budget.latency_s - time.monotonic()
    for name, limit, needed, unit in (
        ("latency", left_s, cost.latency_s, "s"),
        ("energy", budget.energy_j, cost.energy_j, "J"),
    ):
        if limit is not None and needed > limit:
            state.metrics.shed("infeasible", rows)
            raise Infeasible(f"exit 1 needs {needed:.2g} {unit} of {name}, {limit:.2g} are left")


def decode_all(
    contents: list[bytes], model: ServedModel, max_pixels: int
) -> list[NDArray[np.uint8]]:
    return [decode_image(content, model.manifest.input, max_pixels) for content in contents]


async def run(
    state: State,
    model: ServedModel,
    policy: Policy,
    budget: Budget,
    arrival: float,
    images: list[NDArray[np.uint8]],
) -> list[Outcome]:
    """Admits one job per image and waits for their outcomes, in order."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in images]
    jobs = [
        Job(model, policy, budget, arrival, image, partial(settle, future))
        for image, future in zip(images, futures, strict=True)
    ]
    try:
        state.engine.submit(jobs)
    except Overloaded:
        state.metrics.shed("overload", len(jobs))
        raise
    return await asyncio.gather(*futures)


def settle(future: asyncio.Future[Outcome], result: Outcome | Exception) -> None:
    """Completes a request's future, unless its client went away."""
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
