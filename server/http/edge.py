"""The edge: one pass from the server to a handler, for every request.

Hot routes are looked up here, behind the checks that all of them share: a key, and room for work.
FastAPI documents them, and serves everything else.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import ClientGone, Overloaded, TooManyConnections
from server.http import probes
from server.http.access import check_work
from server.http.exchange import CLIENT_GONE, Exchange, Held, Reply, own_path
from server.http.hot import HotRoute
from server.http.problems import reply_of
from server.http.refusals import Refusals
from server.service import Service
from server.telemetry.logs import is_logged, log_request, request_id
from server.telemetry.requests import shed_reason
from server.telemetry.tracing import trace_route

EXCHANGE = "exchange"
"""The key of the scope that holds a request's Exchange."""


Find = Callable[[str, str], HotRoute | None]
"""From method and path to the hot route, if it is one."""


@dataclass(slots=True)
class Edge:
    """Answers hot routes; hands everything else to `app`. Counts and logs every request once."""

    app: ASGIApp
    find: Find
    service_of: Callable[[], Service]
    around: Callable[[ASGIApp], ASGIApp] = lambda app: app
    """Middleware between the counting and the routes."""
    _held: Held = field(default_factory=Held)
    _refusals: Refusals = field(default_factory=Refusals)
    _inner: ASGIApp = field(init=False)

    def __post_init__(self) -> None:
        self._inner = self.around(self._dispatch)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        service = self.service_of()
        if prefix := service.settings.address.root_path:
            scope["root_path"] = prefix
        method = scope["method"]
        if method == "HEAD":  # a GET whose body the protocol leaves out
            scope = {**scope, "method": "GET"}
        exchange = scope[EXCHANGE] = Exchange(scope, receive, send, service, self._held)
        request_id.set(exchange.id)
        is_work = method == "POST"
        service.gate.num_requests += is_work
        try:
            await self._inner(scope, exchange.receive, exchange.send)
        except ClientGone:
            exchange.status = CLIENT_GONE
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not exchange.is_gone() or (task is not None and task.uncancel() > 0):
                raise
            exchange.status = CLIENT_GONE
        finally:
            service.gate.num_requests -= is_work
            exchange.end()
            route = getattr(scope.get("route"), "path", exchange.route)
            seconds = time.monotonic() - exchange.arrival
            is_timed = not exchange.is_background
            service.metrics.request_ended(route, exchange.status, seconds, is_timed=is_timed)
            if is_logged():
                line = method, route, exchange.status, seconds, exchange.exits, exchange.id
                service.metrics.ledger.write(log_request, time.time(), *line)
        return None

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = own_path(scope)
        exchange: Exchange = scope[EXCHANGE]
        route = self.find(scope["method"], path)
        if route is not None:
            exchange.route = route.path
        if exchange.is_surplus and path not in probes.PATHS:
            return await refusal_of(exchange.service, path)(scope, receive, send)
        if route is None:
            return await self.app(scope, receive, send)
        if exchange.service.settings.telemetry.traces:
            trace_route(scope["method"], route.path)
        response: ASGIApp | None
        try:
            check_work(exchange.service, exchange.header(b"authorization"))
            if (response := self._refusals.again(exchange)) is None:
                response = await route.handle(exchange)
        except ClientGone:
            raise
        except Exception as error:
            response = reply_of(error, path)
            if isinstance(error, Overloaded) and exchange.is_told_by_head:
                self._refusals.note(exchange, error, response)
        await response(scope, receive, send)
        return None


def refusal_of(service: Service, path: str) -> Reply:
    """Counts a request on a connection that is one too many; gives its response."""
    error = TooManyConnections(f"{service.settings.limits.max_connections} connections are open")
    service.metrics.shed(shed_reason(error), 1)
    return reply_of(error, path)
