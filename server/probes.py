"""`GET /healthz`, `/readyz` and `/metrics`: open to all, and never refused."""

import time

from fastapi import APIRouter, Request, Response

from server.scheduler import Step
from server.state import state_of

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Response:
    """200 while the process is alive."""
    return Response("ok\n", media_type="text/plain")


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 while requests are welcome; the server listens only once its models are measured."""
    state, now = state_of(request), time.monotonic()
    if state.gate.is_draining:
        return Response("draining\n", 503, media_type="text/plain")
    if not state.engine.is_working():
        return Response("a worker is lost\n", 503, media_type="text/plain")
    for model in state.catalog:
        if model.breakers[1, False].is_open(now):
            return Response(f"{Step(model, 1)} is out of use\n", 503, media_type="text/plain")
    return Response("ready\n", media_type="text/plain")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    exporter = state_of(request).metrics
    return Response(exporter.exposition(), media_type=exporter.content_type)
