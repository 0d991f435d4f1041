"""Request bodies to encoded images and parameters."""

from functools import lru_cache
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, QueryParams, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.errors import BadBody, BadParameter, UnsupportedMedia
from server.http.decode import MEDIA_TYPES
from server.http.strict_json import parse_object
from server.settings import Settings
from server.v1.schemas import JsonBody, Parameters

MAX_FIELDS = 50
SERVED = ", ".join((*MEDIA_TYPES, "multipart/form-data", "application/json"))


async def read(request: Request, settings: Settings) -> tuple[list[bytes], Parameters]:
    """The encoded images, and the parameters from the query and the body together."""
    query = read_query(request.scope["query_string"])
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMedia(f"content encoding {encoding!r}; bodies are taken as they are")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type in MEDIA_TYPES:
        return [await request.body()], query
    if media_type == "application/json":
        name, (contents, fields) = "images", await read_json(request, settings)
    elif media_type == "multipart/form-data":
        name, (contents, fields) = "image", await read_form(request, settings)
    else:
        given = f"content type {media_type!r}" if media_type else "no content type"
        raise UnsupportedMedia(f"{given}; served are {SERVED}")
    if len(contents) > settings.max_images:
        raise BadParameter(name, f"at most {settings.max_images} images are taken")
    in_query = query.model_dump(exclude_unset=True)
    for field in in_query.keys() & fields.keys():
        raise BadParameter(field, "given both in the query and in the body")
    try:
        return contents, Parameters.model_validate(in_query | fields)
    except ValidationError as error:
        raise BadParameter.of(error.errors()) from error


@lru_cache(maxsize=256)
def read_query(query: bytes) -> Parameters:
    """The parameters of a query string; clients send the same one again and again."""
    try:
        return Parameters.model_validate(dict(QueryParams(query)))
    except ValidationError as error:
        raise BadParameter.of(error.errors()) from error


async def read_json(request: Request, settings: Settings) -> tuple[list[bytes], dict[str, Any]]:
    parsed = parse_object(await request.body(), settings.max_images)
    try:
        body = JsonBody.model_validate(parsed)
    except ValidationError as error:
        raise BadParameter.of(error.errors()) from error
    return body.images, body.model_dump(exclude_unset=True, exclude={"images"})


async def read_form(request: Request, settings: Settings) -> tuple[list[bytes], dict[str, Any]]:
    parser = WholeFormParser(
        request.headers,
        request.stream(),
        max_files=settings.max_images + 1,  # one too many is told apart from a broken form
        max_fields=MAX_FIELDS,
    )
    parser.spool_max_size = settings.max_body_bytes  # in memory: the body's cap bounds it
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadBody(error.message) from error
    except UnicodeError as error:
        raise BadBody("the form's fields are not in its charset") from error
    if not parser.is_whole:
        raise BadBody("the form ends before its closing boundary")
    try:
        return await parts(form)
    finally:
        await form.close()


async def parts(form: FormData) -> tuple[list[bytes], dict[str, Any]]:
    """The images and the other fields of a form."""
    contents: list[bytes] = []
    fields: dict[str, Any] = {}
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


class WholeFormParser(MultiPartParser):
    """Knows whether it saw the closing boundary; parts after a cut would be lost silently."""

    is_whole = False

    def on_end(self) -> None:
        super().on_end()
        self.is_whole = True
