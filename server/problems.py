"""Errors as RFC 9457 problem documents: one table from error to status."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.decode import BadImage, ImageTooLarge
from server.engine import SegmentFailed
from server.scheduler import Overloaded

logger = logging.getLogger("offramp.http")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class BadParameter(Exception):
    """A parameter that is well formed but cannot be used; `field` names it."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class BadBody(Exception):
    """The body is not what its content type says."""


class BodyTooLarge(Exception):
    """The body has more bytes than are read."""


class UnsupportedMedia(Exception):
    """The body's content type is none that is served."""


class UnknownModel(Exception):
    """No such model or version is loaded."""


class Infeasible(Exception):
    """A strict request whose budget is less than the first exit's expected cost."""


STATUS: dict[type[Exception], HTTPStatus] = {
    ClientDisconnect: HTTPStatus.BAD_REQUEST,  # nobody is left to read it
    BadBody: HTTPStatus.BAD_REQUEST,
    BadImage: HTTPStatus.BAD_REQUEST,
    UnknownModel: HTTPStatus.NOT_FOUND,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ImageTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    BadParameter: HTTPStatus.UNPROCESSABLE_ENTITY,
    SegmentFailed: HTTPStatus.INTERNAL_SERVER_ERROR,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    Infeasible: HTTPStatus.SERVICE_UNAVAILABLE,
}


def problem(
    status: HTTPStatus,
    detail: str,
    errors: Sequence[dict[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document; `errors` names the fields at fault."""
    body: dict[str, Any] = {"title": status.phrase, "status": status.value, "detail": detail}
    if errors:
        body["errors"] = list(errors)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER_S)}
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem document."""

    async def mapped(_: Request, error: Exception) -> JSONResponse:
        field = getattr(error, "field", None)
        errors = [{"field": field, "detail": str(error)}] if field else []
        return problem(STATUS[type(error)], str(error), errors)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, *complaints(error.errors()))

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return problem(HTTPStatus(error.status_code), error.detail, headers=error.headers)

    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error", exc_info=error)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; it is logged")

    for kind in STATUS:
        app.add_exception_handler(kind, mapped)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def complaints(errors: Sequence[Any]) -> tuple[str, list[dict[str, str]]]:
    """pydantic's errors as one sentence and a list that names every field."""
    named = [
        {
            "field": ".".join(str(part) for part in e["loc"] if part not in ("query", "body")),
            "detail": str(e["msg"]).removeprefix("Value error, "),
        }
        for e in errors
    ]
    first = named[0]
    return f"{first['field']}: {first['detail']}" if first["field"] else first["detail"], named
