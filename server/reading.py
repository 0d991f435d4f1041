"""Request bodies to encoded images and parameters."""

from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.decode import MEDIA_TYPES
from server.problems import BadBody, BadParameter, UnsupportedMedia, complaints
from server.schemas import JsonBody, Parameters
from server.settings import Settings

MAX_FIELDS = 50


async def read(
    request: Request, query: Parameters, settings: Settings
) -> tuple[list[bytes], Parameters]:
    """The encoded images, and the parameters from the query and the body together."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in MEDIA_TYPES:
        return [await request.body()], query
    if media_type == "application/json":
        contents, fields = await read_json(request)
    elif media_type == "multipart/form-data":
        contents, fields = await read_form(request, settings.max_images, settings.max_body_bytes)
    else:
        served = ", ".join((*MEDIA_TYPES, "multipart/form-data", "application/json"))
        raise UnsupportedMedia(f"content type {media_type or 'missing'!r}; served are {served}")
    if len(contents) > settings.max_images:
        detail = f"{len(contents)} images; at most {settings.max_images} are taken"
        raise BadParameter("images", detail)
    given = query.model_dump(exclude_unset=True)
    for field in given.keys() & fields.keys():
        raise BadParameter(field, "given both in the query and in the body")
    return contents, parse(given | fields)


async def read_json(request: Request) -> tuple[list[bytes], dict[str, Any]]:
    try:
        body = JsonBody.model_validate_json(await request.body())
    except ValidationError as error:
        detail, errors = complaints(error.errors())
        if error.errors()[0]["type"] == "json_invalid":
            raise BadBody(detail) from error
        raise BadParameter(errors[0]["field"], errors[0]["detail"]) from error
    return body.images, body.model_dump(exclude_unset=True, exclude={"images"})


async def read_form(
    request: Request, max_images: int, max_bytes: int
) -> tuple[list[bytes], dict[str, Any]]:
    contents, fields = [], {}
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=max_images, max_fields=MAX_FIELDS
    )
    parser.spool_max_size = max_bytes  # in memory, whatever the body's cap lets through
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadBody(error.message) from error
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) != (name == "image") or name in fields:
            raise BadParameter(name, "the form takes image files and parameters, once each")
        if isinstance(value, UploadFile):
            contents.append(await value.read())
        else:
            fields[name] = value
    if not contents:
        raise BadParameter("image", "the form has no image part")
    return contents, fields


def parse(fields: dict[str, Any]) -> Parameters:
    try:
        return Parameters.model_validate(fields)
    except ValidationError as error:
        _, errors = complaints(error.errors())
        raise BadParameter(errors[0]["field"], errors[0]["detail"]) from error
