"""`POST /v1/classify`: body to images, images to jobs, outcomes to answers."""

import asyncio
import time
from contextlib import suppress

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray

from models.bundle.policy import Policy
from server.access import admitted, bearer
from server.answers import answer, exit_event, server_timing
from server.catalog import ServedModel
from server.decode import decode_images
from server.direct import DirectRoute
from server.errors import BadParameter, ImageTooLarge
from server.inference import (
    admit,
    budget_of,
    check_feasible,
    counted,
    counted_if_refused,
    policy_of,
    results,
    run,
)
from server.job import Answer, Budget, Demand, Outcome
from server.openapi import ANSWERS, REQUEST
from server.problems import RESPONSES
from server.reading import read
from server.schemas import Classification, Classifications, ExitEvent, Parameters
from server.state import State, state_of
from server.streaming import EventStream, Said, wants_events

SMALL_BYTES, SMALL_PIXELS = 8192, 16_384
"""Of a request's images. A PNG of 32 pixels is decoded in 0.09 ms."""

router = APIRouter(route_class=DirectRoute, dependencies=[Depends(admitted)])


@router.post(
    "/v1/classify",
    response_model=Classification | Classifications,
    responses=ANSWERS | RESPONSES,
    openapi_extra=REQUEST,
)
async def classify(request: Request) -> Response:
    """Classifies one image or several, each within the request's budget."""
    await admitted(request, await bearer(request))
    state = state_of(request)
    arrival: float = request.scope["arrival"]
    contents, parameters = await read(request, state.settings)
    model = state.catalog.find(parameters.model, parameters.version)
    policy, budget = policy_of(parameters, model), budget_of(parameters)
    num_labels = len(model.manifest.labels)
    if parameters.top_k > num_labels:
        raise BadParameter("top_k", f"there are {num_labels} labels")
    with counted_if_refused(request.scope, state, model, len(contents)):
        if parameters.strict:
            check_feasible(model, budget, arrival, len(contents))
        lag_s = request.scope["lag_s"]
        state.engine.check(Demand(model, budget, arrival, len(contents), lag_s))
        images, decode_s = await decode(state, model, contents)
        if wants_events(request):
            return stream(request, model, parameters, policy, budget, images)
        ended = await run(request.scope, state, model, policy, budget, images)
    said, outcomes = answered(request, model, parameters, budget, ended)
    timing = {"Server-Timing": server_timing(decode_s, outcomes)}
    return Response(said.model_dump_json(), headers=timing, media_type="application/json")


def answered(
    request: Request,
    model: ServedModel,
    parameters: Parameters,
    budget: Budget,
    ended: list[Outcome | BaseException],
) -> tuple[Classification | Classifications, list[Outcome]]:
    """What one image or several are answered; counts them."""
    arrival: float = request.scope["arrival"]
    total_s = time.monotonic() - arrival
    outcomes = counted(request.scope, state_of(request), model, budget, ended, total_s)
    request.scope["exits"] = [outcome.answer.exit for outcome in outcomes]
    said = [answer(model, parameters, budget, o, arrival, total_s) for o in outcomes]
    return said[0] if len(said) == 1 else Classifications(results=said), outcomes


def stream(
    request: Request,
    model: ServedModel,
    parameters: Parameters,
    policy: Policy,
    budget: Budget,
    images: list[NDArray[np.uint8]],
) -> EventStream:
    """Admits the images; every exit that runs becomes an event, and then the plain answer."""
    state, said = state_of(request), Said()
    arrival: float = request.scope["arrival"]
    admitted = admit(request.scope, state, model, policy, budget, images, said.tell)

    async def final() -> Classification | Classifications:
        ended = await results(state, admitted)
        return answered(request, model, parameters, budget, ended)[0]

    def exit_said(image: int, exit: Answer) -> ExitEvent:
        return exit_event(model, parameters, image, exit, arrival)

    return EventStream(state.metrics, admitted, said, asyncio.ensure_future(final()), exit_said)


async def decode(
    state: State, model: ServedModel, contents: list[bytes]
) -> tuple[list[NDArray[np.uint8]], float]:
    """Every image, and the seconds it took; off the event loop what takes longer than a thread."""
    target, max_pixels = model.manifest.input, state.settings.max_image_pixels
    decoded = None
    if sum(map(len, contents)) <= SMALL_BYTES:
        with suppress(ImageTooLarge):  # few bytes can be many pixels
            decoded = decode_images(contents, target, min(SMALL_PIXELS, max_pixels))
    if decoded is None:
        loop = asyncio.get_running_loop()
        try:
            decoded = await loop.run_in_executor(
                state.decoders, decode_images, contents, target, max_pixels
            )
        except asyncio.CancelledError:
            state.metrics.client_gone("decode")
            raise
    state.metrics.decoded(decoded[1])
    return decoded
