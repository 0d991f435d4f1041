"""`GET /healthz`, `/readyz` and `/metrics`: open to all, and never refused."""

from asyncio import to_thread

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from server.http.readiness import reason_against
from server.http.state import state_of

PATHS = ("/healthz", "/readyz", "/metrics")
router = APIRouter(default_response_class=PlainTextResponse)


@router.get("/healthz")
async def healthz() -> Response:
    """200 while the process is alive."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", responses={503: {"description": "No requests now; the body says why"}})
async def readyz(request: Request) -> Response:
    """200 while requests are welcome; the server listens only once its models are measured."""
    reason = reason_against(state_of(request))
    return PlainTextResponse("ready\n") if reason is None else PlainTextResponse(f"{reason}\n", 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus's text format, written in a thread: a thousand series take the loop 10 ms."""
    exporter = state_of(request).metrics
    return Response(await to_thread(exporter.exposition), media_type=exporter.content_type)
