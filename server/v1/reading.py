"""Request bodies to encoded images and parameters."""

from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.errors import BadBody, BadParameter, UnsupportedMedia
from server.http.decode import MEDIA_TYPES
from server.http.exchange import Exchange
from server.http.strict_json import parse_object
from server.v1.schemas import JsonBody, Parameters

MAX_FIELDS = 50
SERVED = ", ".join((*MEDIA_TYPES, "multipart/form-data", "application/json"))
RAW = frozenset((*MEDIA_TYPES, "image/jpg", "application/octet-stream"))
"""Bodies that are one image: what clients call it matters less than what it is."""
PARTS = ("image", "images", "file")
"""Names of a form's image parts that clients use; the first is the documented one."""


async def read(exchange: Exchange) -> tuple[list[bytes], Parameters]:
    """The encoded images, and the parameters from the query and the body together."""
    query = read_query(exchange.scope["query_string"])
    encoding = exchange.header(b"content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMedia(f"content encoding {encoding!r}; bodies are taken as they are")
    media_type = exchange.header(b"content-type").partition(";")[0].strip().lower()
    if media_type in RAW:
        return [await exchange.body()], query
    max_images = exchange.service.settings.limits.max_images
    if media_type == "application/json":
        name, (contents, fields) = "images", read_json(await exchange.body(), max_images)
    elif media_type == "multipart/form-data":
        name, (contents, fields) = "image", await read_form(exchange, max_images)
    else:
        given = f"content type {media_type!r}" if media_type else "no content type"
        raise UnsupportedMedia(f"{given}; served are {SERVED}")
    if len(contents) > max_images:
        raise BadParameter(name, f"at most {max_images} images are taken")
    in_query = query.model_dump(exclude_unset=True)
    for field in in_query.keys() & fields.keys():
        raise BadParameter(field, "given both in the query and in the body")
    return contents, parameters_of(in_query | fields)


@lru_cache(maxsize=256)
def read_query(query: bytes) -> Parameters:
    """The parameters of a query string; clients send the same one again and again."""
    given: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name in given:
            raise BadParameter(name, "given twice")
        given[name] = value
    return parameters_of(given)


def parameters_of(given: dict[str, Any]) -> Parameters:
    """Raises BadParameter, also for a parameter without a value."""
    for name, value in given.items():
        if value == "":
            raise BadParameter(name, "has no value")
    try:
        return Parameters.model_validate(given)
    except ValidationError as error:
        raise BadParameter.of(error.errors()) from error


def read_json(content: bytes, max_images: int) -> tuple[list[bytes], dict[str, Any]]:
    parsed = parse_object(content, max_images)
    try:
        body = JsonBody.model_validate(parsed)
    except ValidationError as error:
        raise BadParameter.of(error.errors()) from error
    return body.images, body.model_dump(exclude_unset=True, exclude={"images"})


async def read_form(exchange: Exchange, max_images: int) -> tuple[list[bytes], dict[str, Any]]:
    parser = WholeFormParser(
        Headers(scope=exchange.scope),
        stream(exchange),
        max_files=max_images + 1,  # one too many is told apart from a broken form
        max_fields=MAX_FIELDS,
    )
    # in memory: the body's cap bounds it
    parser.spool_max_size = exchange.service.settings.limits.max_body_bytes
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


async def stream(exchange: Exchange) -> AsyncGenerator[bytes]:
    """The body as it comes."""
    is_whole = False
    while not is_whole:
        message = await exchange.receive()
        is_whole = not message.get("more_body", False)
        yield message.get("body", b"")


async def parts(form: FormData) -> tuple[list[bytes], dict[str, Any]]:
    """The images and the other fields of a form."""
    contents: list[bytes] = []
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name not in PARTS:
                raise BadParameter(name, "a form's images are files called image")
            contents.append(await value.read())
        elif name in PARTS:
            raise BadParameter(name, "must be a file, not text")
        elif name in fields:
            raise BadParameter(name, "given twice")
        else:
            fields[name] = value
    if not contents:
        raise BadParameter("image", "the form has no image: its part is a file called image")
    return contents, fields


class WholeFormParser(MultiPartParser):
    """Knows whether it saw the closing boundary; parts after a cut would be lost silently."""

    is_whole = False

    def on_end(self) -> None:
        super().on_end()
        self.is_whole = True
