"""`POST /v1/classify`: body to rows, outcomes to answers."""

import asyncio
from math import inf

import orjson
from fastapi import APIRouter, Depends, Response
from starlette.types import ASGIApp

from server.engine.job import Answer
from server.errors import BadParameter
from server.http.access import known
from server.http.contents import ROW_NAMES, encoded
from server.http.exchange import Exchange, Reply
from server.http.hot import HotRoute, answered_by_the_edge
from server.http.problems import RESPONSES
from server.http.wording import server_timing
from server.v1.answers import Json, answers, exit_event
from server.v1.openapi import ANSWERS, REQUEST
from server.v1.reading import read
from server.v1.streaming import EventStream, Said, wants_events

PATH = "/v1/classify"
router = APIRouter(tags=["Classify"], dependencies=[Depends(known)])


async def classify(exchange: Exchange) -> ASGIApp:
    """Classifies one row or several, each within the request's budget."""
    service = exchange.service
    contents, parameters = await read(exchange)
    model = service.find(parameters.model, parameters.version)
    demand = service.demand(model, parameters, exchange.arrival, exchange.lag_s, exchange.id)
    exchange.is_background = demand.is_background
    num_labels = len(model.manifest.labels)
    if parameters.top_k > num_labels:
        raise BadParameter("top_k", f"there are {num_labels} labels")
    by = service.decoded_by(demand, len(contents.values)) if parameters.strict else inf
    rows = encoded(contents, model, service.settings, service.engine.pace.decoding, by)
    if not wants_events(exchange):
        served = await service.classify(demand, rows, strict=parameters.strict)
        exchange.exits = served.exits
        timing = b"server-timing", server_timing(served).encode()
        return Reply(200, orjson.dumps(answers(served, parameters)), headers=(timing,))

    said, name = Said(), ROW_NAMES[model.manifest.input.kind]
    running = await service.start(demand, rows, said.tell, strict=parameters.strict)

    async def final() -> Json:
        served = await service.finish(running)
        exchange.exits = served.exits
        return answers(served, parameters)

    def exit_said(row: int, exit: Answer) -> Json:
        return {name: row} | exit_event(demand, parameters, exit)

    return EventStream(service.metrics, running, said, asyncio.ensure_future(final()), exit_said)


ROUTE = HotRoute(PATH, classify)
router.add_api_route(
    PATH,
    answered_by_the_edge(classify),
    methods=["POST"],
    response_class=Response,
    responses=ANSWERS | RESPONSES,
    openapi_extra=REQUEST,
)
