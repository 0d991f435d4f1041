"""Routes that do work: their requests skip most of what FastAPI has between server and endpoint."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.problems import STATUS, problem_of, spoken
from server.telemetry.tracing import trace_route

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """Its endpoint takes the request and returns the response; dependencies are its own to call.

    FastAPI documents it, but what it does for a route was half of a small image's time on the event
    loop.
    """

    def get_route_handler(self) -> Endpoint:
        handler: Endpoint = self.endpoint
        return handler


class Direct:
    """Answers for the direct routes whose path is always the same; the others go on to `app`."""

    def __init__(self, app: ASGIApp, routes: list[BaseRoute]) -> None:
        self.app = app
        self._routes: dict[tuple[Any, Any], DirectRoute] = {
            (method, route.path): route
            for route in routes
            if isinstance(route, DirectRoute) and not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope.get("method"), scope.get("path")))
        if route is None:  # or no request: the app's own beginning and end
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        trace_route(scope["method"], route.path)
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except tuple(STATUS) as error:
            response = spoken(request, problem_of(error))
        await response(scope, receive, send)


def install(app: FastAPI, around: Sequence[Middleware]) -> None:
    """Puts this middleware around the finished app, and right behind it the direct routes."""
    direct = Direct(app.build_middleware_stack(), app.routes)
    inner: ASGIApp = ServerErrorMiddleware(direct, app.exception_handlers[Exception])
    for middleware, args, options in reversed(around):
        inner = middleware(inner, *args, **options)
    app.middleware_stack = inner
