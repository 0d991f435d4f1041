"""`POST /v2/models/NAME/infer`: tensors to jobs, outcomes to tensors."""

import asyncio
import time

from fastapi import Request, Response

from models.bundle.manifest import Manifest
from server.engine.job import Demand, Outcome
from server.http.compression import accepted_encoding, deflate, inflate
from server.http.state import State, state_of
from server.service import check_feasible, counted, counted_if_refused, demand_of, run
from server.settings import Settings
from server.v1.answers import is_met, milli, server_timing
from server.v2.models import model_of
from server.v2.outputs import output
from server.v2.requests import Inference, read_inference
from server.v2.response_schemas import InferResponse
from server.zoo.catalog import ServedModel

HEADER_LENGTH = "Inference-Header-Content-Length"


async def infer(request: Request) -> Response:
    """Classifies every image of a tensor, each within the request's budget."""
    state, model = state_of(request), model_of(request)
    asked, decode_s = await read(request, state, model)
    demand, num_images = demand_of(request, model, asked.parameters), len(asked.images)
    with counted_if_refused(state, demand, num_images):
        if asked.parameters.strict:
            check_feasible(demand, num_images)
        results = await run(state, demand, list(asked.images))
    total_s = time.monotonic() - demand.arrival
    outcomes = counted(state, demand, results, total_s)
    request.scope["exits"] = [outcome.answer.exit for outcome in outcomes]
    response = response_of(asked, demand, outcomes, total_s)
    response.headers["Server-Timing"] = server_timing(decode_s, outcomes)
    return await compressed(request, state, response)


async def read(request: Request, state: State, model: ServedModel) -> tuple[Inference, float]:
    """Reads the body and, off the event loop, what it says."""
    body, headers = await request.body(), request.headers
    loop = asyncio.get_running_loop()
    try:
        asked, seconds = await loop.run_in_executor(
            state.decoders,
            decode,
            body,
            headers.get("content-encoding", ""),
            headers.get(HEADER_LENGTH),
            model.manifest,
            state.settings,
        )
    except asyncio.CancelledError:
        state.metrics.client_gone("decode")
        raise
    state.metrics.decoded(seconds)
    return asked, seconds


def decode(
    body: bytes, encoding: str, header_length: str | None, manifest: Manifest, settings: Settings
) -> tuple[Inference, float]:
    """The request, and the seconds it took to understand it."""
    started = time.monotonic()
    content = inflate(body, encoding, settings.max_body_bytes)
    asked = read_inference(content, header_length, manifest, settings.max_images)
    return asked, time.monotonic() - started


def response_of(
    asked: Inference, demand: Demand, outcomes: list[Outcome], total_s: float
) -> Response:
    """JSON, with the binary outputs behind it where there are any."""
    model = demand.model
    parts = [output(wanted, outcomes, model.manifest.labels) for wanted in asked.outputs]
    head = InferResponse(
        model_name=model.manifest.name,
        model_version=str(model.manifest.version),
        id=asked.id,
        parameters={
            "total_ms": milli(total_s),
            "energy_mj": milli(sum(outcome.energy_j for outcome in outcomes)),
            "energy_source": model.energy_source,
            "met": all(is_met(demand.budget, outcome, total_s) for outcome in outcomes),
        },
        outputs=[tensor for tensor, _ in parts],
    )
    content = head.model_dump_json(exclude_none=True).encode()
    tails = [tail for _, tail in parts if tail is not None]
    if not tails:
        return Response(content, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(content))}
    return Response(b"".join([content, *tails]), 200, headers, "application/octet-stream")


async def compressed(request: Request, state: State, response: Response) -> Response:
    """The response in an encoding that its client accepts, if it is large enough to gain by it."""
    body = bytes(response.body)
    encoding = accepted_encoding(request.headers.get("accept-encoding", ""), len(body))
    if encoding is None:
        return response
    loop = asyncio.get_running_loop()
    content = await loop.run_in_executor(state.decoders, deflate, body, encoding)
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    headers |= {"content-encoding": encoding, "vary": "Accept-Encoding"}
    return Response(content, 200, headers)
