"""`ModelInfer` and `ModelStreamInfer`: messages to rows, outcomes to messages."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import TypeVar

from models.bundle.manifest import version_of
from server.engine.job import Answer, Demand
from server.engine.model import ServedModel
from server.errors import UnknownModel
from server.grpc.calls import Call
from server.grpc.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from server.grpc.translation import (
    FINAL,
    exit_response,
    parameter_of,
    parse,
    response_of,
    understood,
)
from server.http.wording import server_timing
from server.parameters import InferenceParameters
from server.running import Served
from server.service import Service
from server.v2.infer import SMALL_BYTES, encoded_rows
from server.v2.requests import Inference

T = TypeVar("T")
LEAST_MS = 1e-3
"""A call whose deadline has passed is about to be cancelled."""


async def infer(call: Call, message: bytes) -> ModelInferResponse:
    """Classifies every row of a tensor, each within the request's budget."""
    asked, demand = await read(call, message)
    rows = encoded_rows(asked, demand, call.service)
    served = await call.service.classify(demand, rows, strict=asked.parameters.strict)
    return ended(call, asked, served)


async def infer_by_exits(call: Call, message: bytes) -> AsyncGenerator[ModelInferResponse]:
    """A response for every exit of every row as it is computed, then the final one.

    Closing it early cancels what is left.
    """
    asked, demand = await read(call, message)
    said: asyncio.Queue[tuple[int, Answer] | None] = asyncio.Queue()
    service, strict = call.service, asked.parameters.strict

    def tell(row: int, answer: Answer) -> None:
        said.put_nowait((row, answer))

    rows = encoded_rows(asked, demand, service)
    running = await service.start(demand, rows, tell, strict=strict)
    final = asyncio.ensure_future(service.finish(running))
    final.add_done_callback(lambda _: said.put_nowait(None))
    try:
        while (entry := await said.get()) is not None:
            yield exit_response(asked, demand.model, demand.arrival, *entry)
        response = ended(call, asked, final.result())
        response.parameters[FINAL].CopyFrom(parameter_of(True))
        yield response
    except (asyncio.CancelledError, GeneratorExit):
        service.metrics.client_gone("response" if final.done() else running.stage)
        raise
    finally:
        final.cancel()


async def read(call: Call, message: bytes) -> tuple[Inference, Demand]:
    """What a message asks for; off the event loop where understanding it takes long."""
    service = call.service
    is_small = len(message) <= SMALL_BYTES
    request = await done(service, is_small, partial(parse, ModelInferRequest, message))
    model = find(service, request.model_name, request.model_version)
    is_quick = is_small and len(request.raw_input_contents) > 0
    limits = model.manifest, service.settings.limits.max_images
    asked = await done(service, is_quick, partial(understood, request, *limits))
    parameters = within(asked.parameters, call)
    demand = service.demand(model, parameters, call.arrival, call.lag_s, call.id)
    call.is_background = demand.is_background
    return asked, demand


async def done(service: Service, is_quick: bool, step: Callable[[], T]) -> T:
    """The result of a step, made here or in a decoder's thread."""
    return step() if is_quick else await service.on_thread(step)


def find(service: Service, name: str, version: str) -> ServedModel:
    """The model that a message names; raises UnknownModel or NotReady."""
    number = version_of(version) if version else None
    if version and number is None:
        raise UnknownModel(f"versions are numbers, not {version!r}", "version")
    return service.find(name or None, number)


def within(parameters: InferenceParameters, call: Call) -> InferenceParameters:
    """The call's deadline is a latency budget, where the parameters set none that is shorter.

    A request in the background has none: a call that takes too long is cancelled.
    """
    if call.deadline is None or parameters.is_background:
        return parameters
    left_ms = max(LEAST_MS, 1000 * (call.deadline - call.arrival))
    if parameters.latency_budget_ms is not None:
        left_ms = min(left_ms, parameters.latency_budget_ms)
    return parameters.model_copy(update={"latency_budget_ms": left_ms})


def ended(call: Call, asked: Inference, served: Served) -> ModelInferResponse:
    call.exits = served.exits
    call.metadata += (("server-timing", server_timing(served)),)
    return response_of(asked, served)
