"""`GET /healthz`, `/readyz` and `/metrics`: open to all, and never refused."""

from asyncio import to_thread

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from server.service import service_of

PATHS = ("/healthz", "/readyz", "/metrics")
router = APIRouter(tags=["Probes"], default_response_class=PlainTextResponse)


@router.get("/healthz")
async def healthz() -> Response:
    """200 while the process is alive."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", responses={503: {"description": "No requests now; the body says why"}})
async def readyz(request: Request) -> Response:
    """200 while requests are welcome; the server listens only once its models are measured."""
    reason = service_of(request).reason_against()
    return PlainTextResponse("ready\n") if reason is None else PlainTextResponse(f"{reason}\n", 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All metrics of the server in Prometheus's text format."""
    exporter = service_of(request).metrics  # a thread: a thousand series would take the loop 10 ms
    return Response(await to_thread(exporter.exposition), media_type=exporter.content_type)
