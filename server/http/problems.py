"""Errors as RFC 9457 problem documents: one table from error to status."""

import json
import random
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
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
    Unauthenticated,
    Unavailable,
    UnknownModel,
    UnsupportedMedia,
)

MEDIA_TYPE = "application/problem+json"
MAX_RETRY_AFTER_S = 3

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


def problem(
    status: HTTPStatus,
    detail: str,
    errors: Sequence[Complaint] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document as a response."""
    body: dict[str, Any] = {"title": status.phrase, "status": status.value, "detail": detail}
    if errors:
        body["errors"] = list(errors)
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def problem_of(error: Exception) -> JSONResponse:
    """The problem document of one of the errors of the table."""
    errors: list[Complaint] = []
    if isinstance(error, BadParameter):
        errors = error.errors
    elif isinstance(error, FieldError) and error.field is not None:
        errors = [{"field": error.field, "detail": str(error)}]
    headers = HEADERS.get(type(error), {})
    if STATUS[type(error)] is HTTPStatus.SERVICE_UNAVAILABLE:  # not all at the same time again
        headers = headers | {"Retry-After": str(random.randint(1, MAX_RETRY_AFTER_S))}
    return problem(STATUS[type(error)], str(error), errors, headers)


def spoken(request: Request, problem: JSONResponse) -> JSONResponse:
    """The problem as its protocol says it: under /v2 as an error, and all bad input is 400."""
    if not f"{request.url.path}/".startswith("/v2/"):
        return problem
    is_bad_input = problem.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    status = HTTPStatus.BAD_REQUEST if is_bad_input else problem.status_code
    own = ("content-type", "content-length")
    headers = {name: value for name, value in problem.headers.items() if name not in own}
    return JSONResponse({"error": json.loads(bytes(problem.body))["detail"]}, status, headers)


def install(app: FastAPI) -> None:
    """Makes every error of the app a problem document."""

    async def mapped(request: Request, error: Exception) -> JSONResponse:
        return spoken(request, problem_of(error))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return spoken(request, problem_of(BadParameter.of(error.errors())))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        return spoken(request, problem(status, error.detail, headers=error.headers))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        said = "the server failed; its log says why"
        return spoken(request, problem(HTTPStatus.INTERNAL_SERVER_ERROR, said))

    for kind in STATUS:
        app.add_exception_handler(kind, mapped)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)
