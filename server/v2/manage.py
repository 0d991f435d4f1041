"""`/v2/repository`: which models there are, loading and unloading them.

Every route here manages the server: keys for inference alone do not open them.
"""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from server.errors import BadParameter
from server.http.access import trusted
from server.service import Service, service_of
from server.v2.models import Name
from server.v2.openapi import ERRORS, body_of
from server.v2.request_schemas import IndexRequest, ManageParameters, ManageRequest
from server.v2.requests import parse
from server.v2.response_schemas import IndexEntry
from server.zoo.repository import READY

router = APIRouter(
    prefix="/v2/repository",
    tags=["Model repository"],
    dependencies=[Depends(trusted)],
    responses=ERRORS,
)


@router.post("/index", openapi_extra=body_of(IndexRequest))
async def index(request: Request) -> list[IndexEntry]:
    """Every version on disk or served; with `ready`, only those served."""
    asked = parse(IndexRequest, await request.body() or b"{}")
    return await index_of(service_of(request), only_ready=asked.ready)


async def index_of(service: Service, *, only_ready: bool) -> list[IndexEntry]:
    entries = await service.repository.index()
    return [
        IndexEntry(name=name, version=str(version), state=entry.state, reason=entry.reason)
        for entry in entries
        for name, version in [entry.key]
        if entry.state == READY or not only_ready
    ]


@router.post("/models/{name}/load", response_class=Response, openapi_extra=body_of(ManageRequest))
async def load(request: Request, name: Name) -> Response:
    """Loads or renews a version, by default every one on disk. What serves goes on meanwhile."""
    await service_of(request).repository.load(name, await version_of(request))
    return Response()


@router.post("/models/{name}/unload", response_class=Response, openapi_extra=body_of(ManageRequest))
async def unload(request: Request, name: Name) -> Response:
    """Unloads a version, by default every one. Requests that were admitted are answered."""
    await service_of(request).repository.unload(name, await version_of(request))
    return Response()


async def version_of(request: Request) -> int | None:
    """The version the body names; a model comes from the zoo alone, never from a request."""
    return version_asked(parse(ManageRequest, await request.body() or b"{}").parameters)


def version_asked(parameters: dict[str, Any]) -> int | None:
    """Raises BadParameter for any other parameter."""
    try:
        return ManageParameters.model_validate(parameters).version
    except ValidationError as error:
        raise BadParameter.of(error.errors(include_url=False, include_input=False)) from error
