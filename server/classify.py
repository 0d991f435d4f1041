"""`POST /v1/classify`: body to images, images to jobs, outcomes to answers."""

import asyncio
import time
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray

from server.answers import answer, server_timing
from server.catalog import ServedModel
from server.decode import MEDIA_TYPES, decode_images
from server.errors import BadParameter
from server.inference import (
    budget_of,
    check_feasible,
    counted,
    counted_if_refused,
    policy_of,
    run,
)
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
    num_labels = len(model.manifest.labels)
    if parameters.top_k > num_labels:
        raise BadParameter("top_k", f"there are {num_labels} labels")
    with counted_if_refused(state, len(contents)):
        if parameters.strict:
            check_feasible(model, budget, arrival, len(contents))
        state.engine.check_room(len(contents))
        images, decode_s = await decode(state, model, contents)
        results = await run(state, model, policy, budget, arrival, images)
    total_s = time.monotonic() - arrival
    outcomes = counted(state, model, budget, results, total_s)
    response.headers["Server-Timing"] = server_timing(decode_s, outcomes)
    answers = [answer(model, parameters, budget, o, arrival, total_s) for o in outcomes]
    return answers[0] if len(answers) == 1 else Classifications(results=answers)


async def decode(
    state: State, model: ServedModel, contents: list[bytes]
) -> tuple[list[NDArray[np.uint8]], float]:
    """Decodes off the event loop."""
    loop = asyncio.get_running_loop()
    target, max_pixels = model.manifest.input, state.settings.max_image_pixels
    try:
        images, seconds = await loop.run_in_executor(
            state.decoders, decode_images, contents, target, max_pixels
        )
    except asyncio.CancelledError:
        state.metrics.client_gone("decode")
        raise
    state.metrics.decoded(seconds)
    return images, seconds
