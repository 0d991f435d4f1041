"""`GET /healthz`, `/readyz` and `/metrics`: open to all, and never refused."""

import time

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from server.scheduler import Step
from server.state import state_of

router = APIRouter(default_response_class=PlainTextResponse)


@router.get("/healthz")
async def healthz() -> Response:
    """200 while the process is alive."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", responses={503: {"description": "No requests now; the body says why"}})
async def readyz(request: Request) -> Response:
    """200 while requests are welcome; the server listens only once its models are measured."""
    state, now = state_of(request), time.monotonic()
    if state.gate.is_draining:
        return PlainTextResponse("draining\n", 503)
    if not state.engine.is_working():
        return PlainTextResponse("a worker is lost\n", 503)
    for model in state.catalog:
        if model.breakers[1, False].is_open(now):
            return PlainTextResponse(f"{Step(model, 1)} is out of use\n", 503)
    return PlainTextResponse("ready\n")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    exporter = state_of(request).metrics
    return Response(exporter.exposition(), media_type=exporter.content_type)
