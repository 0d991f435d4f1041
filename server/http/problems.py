"""Errors as RFC 9457 problem documents: one table from error to status."""

import logging
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from models.bundle.bundle import BundleError
from server.errors import (
    BadBody,
    BadImage,
    BadParameter,
    BodiesTooLarge,
    BodyTooLarge,
    BodyTooLate,
    Complaint,
    Draining,
    FieldError,
    Forbidden,
    ImageTooLarge,
    Infeasible,
    NoAnswer,
    NotReady,
    Overloaded,
    TextTooLong,
    Unauthenticated,
    Unavailable,
    UnknownModel,
    UnsupportedMedia,
)
from server.http.exchange import Headers, Reply, own_path

logger = logging.getLogger("offramp")
V = TypeVar("V")
MEDIA_TYPE = "application/problem+json"
UNEXPECTED = "the server failed; its log says why"
RETRY_AFTER_S = (1, 2, 3)

STATUS: dict[type[Exception], HTTPStatus] = {
    BadBody: HTTPStatus.BAD_REQUEST,
    BadImage: HTTPStatus.BAD_REQUEST,
    BundleError: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    UnknownModel: HTTPStatus.NOT_FOUND,
    BodyTooLate: HTTPStatus.REQUEST_TIMEOUT,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ImageTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TextTooLong: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    BadParameter: HTTPStatus.UNPROCESSABLE_ENTITY,
    NoAnswer: HTTPStatus.INTERNAL_SERVER_ERROR,
    BodiesTooLarge: HTTPStatus.SERVICE_UNAVAILABLE,
    Draining: HTTPStatus.SERVICE_UNAVAILABLE,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
    Infeasible: HTTPStatus.SERVICE_UNAVAILABLE,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    NotReady: HTTPStatus.SERVICE_UNAVAILABLE,
}

CLOSE = {"Connection": "close"}
HEADERS: dict[type[Exception], dict[str, str]] = {
    Unauthenticated: {"WWW-Authenticate": "Bearer"},
    BodyTooLate: CLOSE,  # the rest of the body is not read
    BodyTooLarge: CLOSE,
    BodiesTooLarge: CLOSE,
}


class Problem(BaseModel):
    """An RFC 9457 problem document; `errors` names the fields at fault."""

    title: str
    status: int
    detail: str
    errors: list[Complaint] | None = None


FOR_OPERATORS = {HTTPStatus.FORBIDDEN}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status.value: {
        "description": status.phrase,
        "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
    }
    for status in sorted({*STATUS.values()} - FOR_OPERATORS)
}
"""For the OpenAPI document of a route that may answer with any of these."""
FEW_RESPONSES: dict[int | str, dict[str, Any]] = {
    code: RESPONSES[code] for code in (401, 404, 422, 503)
}
"""For a route that only reads."""


def find(table: Mapping[type[Exception], V], error: Exception) -> V | None:
    """The entry for the error's class, or for the nearest class that it is derived from."""
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)


def problem_of(error: Exception) -> tuple[Problem, dict[str, str]]:
    """The problem document of an error, and the headers that go with it.

    An error that the table does not know is the server's: only its log says what it was.
    """
    status = find(STATUS, error)
    if status is None:
        logger.error("unexpected error", exc_info=error)
        status, error = HTTPStatus.INTERNAL_SERVER_ERROR, Exception(UNEXPECTED)
    headers = dict(find(HEADERS, error) or {})
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(random.choice(RETRY_AFTER_S))  # not all at the same time
    return problem(status, str(error), complaints(error)), headers


def problem(status: HTTPStatus, detail: str, errors: list[Complaint] | None = None) -> Problem:
    return Problem(title=status.phrase, status=status.value, detail=detail, errors=errors or None)


def complaints(error: Exception) -> list[Complaint]:
    """The fields at fault."""
    if isinstance(error, BadParameter):
        return error.errors
    if isinstance(error, FieldError) and error.field is not None:
        return [{"field": error.field, "detail": error.detail}]
    return []


def rendered(problem: Problem, path: str) -> tuple[int, bytes, str]:
    """Status, body and media type in the path's protocol.

    Under /v2 a problem is an `error`.
    """
    if f"{path}/".startswith("/v2/"):
        return status_of(problem), orjson.dumps({"error": problem.detail}), "application/json"
    return problem.status, problem.model_dump_json(exclude_none=True).encode(), MEDIA_TYPE


def status_of(problem: Problem) -> int:
    """The status in the Open Inference Protocol, where all bad input is 400."""
    is_bad_input = problem.status == HTTPStatus.UNPROCESSABLE_ENTITY
    return HTTPStatus.BAD_REQUEST.value if is_bad_input else problem.status


def reply_of(error: Exception, path: str) -> Reply:
    """The response to a request that failed."""
    found, headers = problem_of(error)
    status, body, media_type = rendered(found, path)
    return Reply(status, body, media_type.encode(), encoded(headers.items()))


def for_each_wait(reply: Reply) -> tuple[Reply, ...]:
    """The same reply once for each time that clients are told to wait."""
    return tuple(replace(reply, headers=((b"retry-after", b"%d" % s),)) for s in RETRY_AFTER_S)


def encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    return tuple((name.lower().encode(), value.encode()) for name, value in headers)


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem document."""

    def respond(
        request: Request, found: Problem, headers: Mapping[str, str] | None = None
    ) -> Response:
        status, body, media_type = rendered(found, own_path(request.scope))
        return Response(body, status, headers, media_type)

    async def mapped(request: Request, error: Exception) -> Response:
        return respond(request, *problem_of(error))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return respond(request, *problem_of(BadParameter.of(error.errors())))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        allow = headers.get("Allow", "")
        if "GET" in allow and "HEAD" not in allow:  # Starlette's own routes name both
            headers["Allow"] = f"{allow}, HEAD"  # the edge makes it a GET
        return respond(request, problem(HTTPStatus(error.status_code), error.detail), headers)

    async def unexpected(request: Request, _: Exception) -> Response:
        return respond(request, problem(HTTPStatus.INTERNAL_SERVER_ERROR, UNEXPECTED))

    for kind in STATUS:
        app.add_exception_handler(kind, mapped)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)
