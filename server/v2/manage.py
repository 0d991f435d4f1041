"""`/v2/repository`: which models there are, loading and unloading them.

Every route here manages the server: whoever may only infer has no business on this router.
"""

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from server.errors import BadParameter
from server.http.access import trusted
from server.http.state import state_of
from server.v2.openapi import ERRORS, body_of
from server.v2.request_schemas import IndexRequest, ManageParameters, ManageRequest
from server.v2.requests import parse
from server.v2.response_schemas import IndexEntry
from server.zoo.repository import READY

router = APIRouter(prefix="/v2/repository", dependencies=[Depends(trusted)], responses=ERRORS)


@router.post("/index", openapi_extra=body_of(IndexRequest))
async def index(request: Request) -> list[IndexEntry]:
    """Every version on disk or served; with `ready`, only those served."""
    asked = parse(IndexRequest, await request.body() or b"{}")
    entries = await state_of(request).repository.index()
    return [
        IndexEntry(name=name, version=str(version), state=entry.state, reason=entry.reason)
        for entry in entries
        for name, version in [entry.key]
        if entry.state == READY or not asked.ready
    ]


@router.post("/models/{name}/load", response_class=Response, openapi_extra=body_of(ManageRequest))
async def load(request: Request, name: str) -> Response:
    """Loads or renews a version, by default every one on disk. What serves goes on meanwhile."""
    await state_of(request).repository.load(name, await version_of(request))
    return Response()


@router.post("/models/{name}/unload", response_class=Response, openapi_extra=body_of(ManageRequest))
async def unload(request: Request, name: str) -> Response:
    """Unloads a version, by default every one. Requests that were admitted are answered."""
    await state_of(request).repository.unload(name, await version_of(request))
    return Response()


async def version_of(request: Request) -> int | None:
    """The version the body names; a model comes from the zoo alone, never from a request."""
    asked = parse(ManageRequest, await request.body() or b"{}")
    try:
        return ManageParameters.model_validate(asked.parameters).version
    except ValidationError as error:
        raise BadParameter.of(error.errors(include_url=False, include_input=False)) from error
