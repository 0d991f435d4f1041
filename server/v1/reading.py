"""Request bodies to encoded images, texts or rows, and parameters."""

from collections.abc import AsyncGenerator, Sequence
from functools import lru_cache, partial
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.errors import BadBody, BadParameter, UnsupportedMedia
from server.http.contents import TEXT, Contents
from server.http.decode import MEDIA_TYPES
from server.http.exchange import Exchange
from server.http.strict_json import is_large, parse_object
from server.http.texts import text_of
from server.v1.schemas import BODIES, Parameters

MAX_FIELDS = 50
SERVED = ", ".join((*MEDIA_TYPES, "multipart/form-data", TEXT, "application/json"))
RAW = frozenset((*MEDIA_TYPES, "image/jpg", "application/octet-stream"))
"""Bodies that are one image: what clients call it matters less than what it is."""
CHARSETS = frozenset((b"utf-8", b"utf8", b"us-ascii"))
PARTS = ("image", "images", "file")
"""Names of a form's image parts that clients use; the first is the documented one."""


async def read(exchange: Exchange) -> tuple[Contents, Parameters]:
    """The rows, and the parameters from the query and the body together."""
    query = read_query(exchange.scope["query_string"])
    encoding = exchange.header(b"content-encoding")
    if encoding.lower() not in ("", "identity"):
        raise UnsupportedMedia(f"content encoding {encoding!r}; bodies are taken as they are")
    given = exchange.header(b"content-type")
    media_type = given.partition(";")[0].strip().lower()
    if media_type in RAW:
        exchange.is_told_by_head = True
        return Contents("image", [await exchange.body()], media_type=media_type), query
    if media_type == TEXT:
        check_charset(given)
        text = text_of(await exchange.body(), "text")
        return Contents("text", [text], media_type=media_type), query
    max_rows = exchange.service.settings.limits.max_images
    if media_type == "application/json":
        contents, fields = await read_json(exchange, max_rows)
    elif media_type == "multipart/form-data":
        check_charset(given)
        images, fields = await read_form(exchange, given, max_rows)
        check_number("image", images, max_rows)
        contents = Contents("image", images, media_type=media_type)
    else:
        said = f"content type {media_type!r}" if media_type else "no content type"
        raise UnsupportedMedia(f"{said}; served are {SERVED}")
    in_query = query.model_dump(exclude_unset=True)
    for field in in_query.keys() & fields.keys():
        raise BadParameter(field, "given both in the query and in the body")
    return contents, parameters_of(in_query | fields)


def check_charset(content_type: str) -> None:
    """Raises UnsupportedMedia for a text or a form in anything but UTF-8."""
    _, options = parse_options_header(content_type)
    if (charset := options.get(b"charset", b"utf-8")).lower() not in CHARSETS:
        raise UnsupportedMedia(f"charset {charset.decode('latin-1')!r}; texts are UTF-8")


def check_number(name: str, rows: Sequence[object], max_rows: int) -> None:
    if len(rows) > max_rows:
        what = "images" if name == "image" else name
        raise BadParameter(name, f"at most {max_rows} {what} are taken")


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


async def read_json(exchange: Exchange, max_rows: int) -> tuple[Contents, dict[str, Any]]:
    """On the event loop unless there are many values or bytes."""
    content, service = await exchange.body(), exchange.service
    if not is_large(content):
        return contents_of(content, max_rows)
    return await service.on_thread(partial(contents_of, content, max_rows))


def contents_of(content: bytes, max_rows: int) -> tuple[Contents, dict[str, Any]]:
    """The rows and the other fields of a JSON body; raises BadBody or BadParameter."""
    parsed = parse_object(content)
    given = [name for name in BODIES if name in parsed]
    if len(given) != 1:
        raise BadParameter(given[1] if given else "body", f"needs one of {', '.join(BODIES)}")
    (name,) = given
    rows = parsed[name]
    if isinstance(rows, list):
        check_number(name, rows, max_rows)
    kind, schema = BODIES[name]
    try:
        body = schema.model_validate(parsed, strict=True)
    except ValidationError as error:
        raise BadParameter.of(error.errors()) from error
    fields = body.model_dump(exclude_unset=True, exclude={name})
    return Contents(kind, getattr(body, name), name), fields


async def read_form(
    exchange: Exchange, content_type: str, max_images: int
) -> tuple[list[bytes], dict[str, Any]]:
    parser = WholeFormParser(
        Headers({"content-type": content_type}),
        stream(exchange),
        max_files=max_images + 1,  # one too many is told apart from a broken form
        max_fields=MAX_FIELDS,
    )
    # in memory: the body's cap bounds it
    parser.spool_max_size = exchange.service.settings.limits.max_body_bytes
    try:
        form = await parser.parse()
    except MultiPartException as error:
        files = [value for _, value in parser.items if isinstance(value, UploadFile)]
        check_number("image", files, max_images)
        raise BadBody(error.message) from error
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
