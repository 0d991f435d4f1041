"""`/v2` and all below it."""

from importlib.metadata import version

from fastapi import APIRouter, Depends, Request

from server.errors import NotReady
from server.http.access import known
from server.http.hot import answered_by_the_edge
from server.service import service_of
from server.v2 import manage, models
from server.v2.infer import infer
from server.v2.openapi import ERRORS, INFER_RESPONSES, body_of
from server.v2.request_schemas import InferRequest
from server.v2.response_schemas import Live, Ready, ServerMetadata

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_repository",
    "parameters",
    "statistics",
]
MODEL = "/v2/models/{name}"

router = APIRouter(tags=["Open Inference Protocol"], responses=ERRORS)
ROUTERS = (router, manage.router)


@router.get("/v2")
@router.get("/v2/", include_in_schema=False)
async def metadata() -> ServerMetadata:
    """What the server is, and the protocol's extensions it speaks."""
    return ServerMetadata(name="offramp", version=version("offramp"), extensions=EXTENSIONS)


@router.get("/v2/health/live")
async def live() -> Live:
    """200 while the process is alive."""
    return Live(live=True)


@router.get("/v2/health/ready")
async def ready(request: Request) -> Ready:
    """200 while requests are welcome."""
    if reason := service_of(request).reason_against():
        raise NotReady(reason)
    return Ready(ready=True)


router.get("/v2/models/stats", dependencies=[Depends(known)])(models.every_statistics)
for prefix, find in (
    (MODEL, models.default_version),
    (f"{MODEL}/versions/{{version}}", models.given_version),
):
    dependencies = [Depends(known), Depends(find)]
    router.get(prefix, dependencies=dependencies)(models.metadata)
    router.get(f"{prefix}/ready", dependencies=dependencies)(models.ready)
    router.get(f"{prefix}/stats", dependencies=dependencies)(models.statistics)
    router.get(f"{prefix}/config", dependencies=dependencies)(models.config)
    router.post(
        f"{prefix}/infer",
        dependencies=[Depends(known), Depends(find)],
        response_model=None,
        responses=INFER_RESPONSES,
        openapi_extra=body_of(InferRequest, is_required=True),
    )(answered_by_the_edge(infer))
