"""`POST /v1/classify`: body to images, images to jobs, outcomes to answers."""

import asyncio
import time
from contextlib import suppress

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from numpy.typing import NDArray

from server.engine.job import Answer, Demand, Outcome
from server.errors import BadParameter, ImageTooLarge
from server.http.access import admitted, bearer
from server.http.decode import decode_images
from server.http.direct import DirectRoute
from server.http.problems import RESPONSES
from server.http.state import State, state_of
from server.service import (
    Result,
    admit,
    check_feasible,
    counted,
    counted_if_refused,
    demand_of,
    results,
    run,
)
from server.v1.answers import answer, exit_event, server_timing
from server.v1.openapi import ANSWERS, REQUEST
from server.v1.reading import read
from server.v1.schemas import Classification, Classifications, ExitEvent, Parameters
from server.v1.streaming import EventStream, Said, wants_events
from server.zoo.catalog import ServedModel

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
    contents, parameters = await read(request, state.settings)
    model = state.repository.find(parameters.model, parameters.version)
    demand = demand_of(request, model, parameters)
    num_labels = len(model.manifest.labels)
    if parameters.top_k > num_labels:
        raise BadParameter("top_k", f"there are {num_labels} labels")
    with counted_if_refused(state, demand, len(contents)):
        if parameters.strict:
            check_feasible(demand, len(contents))
        state.engine.check(demand, len(contents))
        images, decode_s = await decode(state, model, contents)
        if wants_events(request):
            return stream(request, demand, parameters, images)
        ended = await run(state, demand, images)
    said, outcomes = answered(request, demand, parameters, ended)
    timing = {"Server-Timing": server_timing(decode_s, outcomes)}
    return Response(said.model_dump_json(), headers=timing, media_type="application/json")


def answered(
    request: Request,
    demand: Demand,
    parameters: Parameters,
    ended: list[Result],
) -> tuple[Classification | Classifications, list[Outcome]]:
    """What one image or several are answered; counts them."""
    total_s = time.monotonic() - demand.arrival
    outcomes = counted(state_of(request), demand, ended, total_s)
    request.scope["exits"] = [outcome.answer.exit for outcome in outcomes]
    said = [answer(demand, parameters, o, total_s) for o in outcomes]
    return said[0] if len(said) == 1 else Classifications(results=said), outcomes


def stream(
    request: Request,
    demand: Demand,
    parameters: Parameters,
    images: list[NDArray[np.uint8]],
) -> EventStream:
    """Admits the images; every exit that runs becomes an event, and then the plain answer."""
    state, said = state_of(request), Said()
    admitted = admit(state, demand, images, said.tell)

    async def final() -> Classification | Classifications:
        ended = await results(state, admitted)
        return answered(request, demand, parameters, ended)[0]

    def exit_said(image: int, exit: Answer) -> ExitEvent:
        return exit_event(demand, parameters, image, exit)

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
