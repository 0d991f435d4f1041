"""What requests are counted as: answered, refused, or left by their clients."""

from collections.abc import Sequence

from server.errors import (
    BodiesTooLarge,
    Draining,
    Infeasible,
    Overloaded,
    TooManyConnections,
    TooManyRequests,
    Unavailable,
)
from server.telemetry.families import Families
from server.telemetry.ledger import later
from server.telemetry.memory import Memory

FAILURES = (500, 503)
SHED_REASONS: dict[type[Exception], str] = {
    Overloaded: "overload",
    BodiesTooLarge: "bodies",
    TooManyConnections: "connections",
    TooManyRequests: "requests",
    Infeasible: "infeasible",
    Unavailable: "unavailable",
    Draining: "draining",
}
BACKGROUND = "background"
"""The reason counted for a background request that finds no slot; its client sends it again."""
CANCELLED_STAGES = ("body", "decode", "queue", "segment", "response")
"""What was going on when a client went away; "segment" from the first segment that ran."""


def shed_reason(error: Exception) -> str:
    """The reason counted for a refusal."""
    return next(SHED_REASONS[kind] for kind in type(error).__mro__ if kind in SHED_REASONS)


class RequestMetrics(Families):
    """Requests by route and status; refusals by reason; departures by stage."""

    def __init__(self, memory: Memory, fds: Sequence[int]) -> None:
        super().__init__(memory, fds)
        self._requests = self._counter("requests", "Requests answered", "route", "code")
        self._request_duration = self._histogram(
            "request_duration_seconds", "From headers received to last byte sent", "route"
        )
        self._decode_duration = self._histogram(
            "decode_duration_seconds", "Decoding the rows of one request, once its body is read"
        ).labels()
        self._shed = self._counter(
            "shed", "Images, or whole requests, refused before any work", "reason"
        )
        self._cancelled = self._counter("cancelled", "Requests whose client went away", "stage")
        for reason in (*SHED_REASONS.values(), BACKGROUND):
            self._shed.labels(reason)
        for stage in CANCELLED_STAGES:
            self._cancelled.labels(stage)

    def route_known(self, route: str) -> None:
        """Starts a route's series at zero, its failures' too.

        Prometheus sees no increase in a series that starts with the first failure.
        """
        for code in (200, *FAILURES):
            self._requests.labels(route, code)
        self._request_duration.labels(route)

    @later
    def request_ended(
        self, route: str, code: int, seconds: float, *, is_timed: bool = True
    ) -> None:
        """Counts a request, and how long it took if it is timed."""
        self._requests.labels(route, code).inc()
        if is_timed:
            self._request_duration.labels(route).observe(seconds)

    @later
    def decoded(self, seconds: float) -> None:
        self._decode_duration.observe(seconds)

    @later
    def shed(self, reason: str, images: int) -> None:
        self._shed.labels(reason).inc(images)

    def client_gone(self, stage: str) -> None:
        self._cancelled.labels(stage).inc()
