"""Hot routes: what the edge answers itself, and how FastAPI documents it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from server.http.exchange import Exchange

Handler = Callable[[Exchange], Awaitable[ASGIApp]]
"""From a request to its response; what it raises becomes a problem document."""


@dataclass(frozen=True, slots=True)
class HotRoute:
    """A route that the edge answers itself; `path` is its template, for metrics and logs."""

    path: str
    handle: Handler


def answered_by_the_edge(handler: Handler) -> Callable[[], None]:
    """FastAPI's endpoint of a hot route: it gives the document its text.

    The only requests it gets are for paths that merely look like the route's, to a pattern that
    takes one line break more.
    """

    def endpoint() -> None:
        raise HTTPException(HTTPStatus.NOT_FOUND)

    endpoint.__name__, endpoint.__doc__ = handler.__name__, handler.__doc__
    return endpoint
