"""The door: refuses what load would make late before anything is made of the request.

In its turn such a request would be refused as well, but a turn costs the event loop several times
as much as a look at the request's first line. Without a door, a server that is asked for a multiple
of what it can answer is busy with refusing, and answers hardly anybody.
"""

import re
from collections.abc import Sequence

from server.errors import Overloaded
from server.http.gate import Gate
from server.http.middleware import log
from server.http.problems import problem_of
from server.telemetry.logs import id_of
from server.telemetry.metrics import SHED_REASONS, Metrics

ROUTE = "/v1/classify"
BUDGET = re.compile(rb"/v1/classify\?(?:.*&)?latency_budget_ms=([0-9]+(?:\.[0-9]+)?)(?:&.*)?")
"""Such a budget can be read before the request is."""
STATUS_LINE = b"HTTP/1.1 503 Service Unavailable\r\n"


class Door:
    """Asks the gate for requests whose first line says how much of a hurry they are in."""

    def __init__(self, gate: Gate, metrics: Metrics) -> None:
        self._gate, self._metrics = gate, metrics

    def refusal(
        self, url: bytes, headers: Sequence[tuple[bytes, bytes]], num_inside: int
    ) -> bytes | None:
        """The response to a POST that is refused, which is counted; None for any other.

        Browsers of other origins need headers that are not its to give: they are let in.
        """
        if not self._gate.is_full(num_inside) or (match := BUDGET.fullmatch(url)) is None:
            return None
        given = dict(headers)
        if b"origin" in given or not self._gate.is_in_a_hurry(float(match[1]) / 1000):
            return None
        error = Overloaded("the first answer would come too late")
        response = problem_of(error)
        response.headers["X-Request-ID"] = id_of(given.get(b"x-request-id", b"").decode("latin-1"))
        self._metrics.shed(SHED_REASONS[type(error)], 1)
        self._metrics.request_ended(ROUTE, response.status_code, 0.0)
        log({"method": "POST"}, ROUTE, response.status_code, 0.0)
        lines = [b"%s: %s\r\n" % header for header in response.raw_headers]
        return b"".join((STATUS_LINE, *lines, b"\r\n", response.body))
