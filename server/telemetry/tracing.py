"""OpenTelemetry: FastAPI makes a span of every request, and here every segment is its child."""

import time
from collections.abc import Sequence

from opentelemetry import trace

from server.engine.job import Outcome

tracer = trace.get_tracer("offramp")


def trace_route(method: str, path: str) -> None:
    """Names the request's span as FastAPI does, for routes that it does not run."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.update_name(f"{method} {path}")
    span.set_attribute("http.route", path)


def trace_segments(outcomes: Sequence[Outcome]) -> None:
    """A span for every segment of every image: as long as its graph took, ending when it had."""
    if not trace.get_current_span().is_recording():
        return
    wall_s = time.time() - time.monotonic()
    for image, outcome in enumerate(outcomes):
        for exit, run in enumerate(outcome.runs, start=1):
            end_ns = round(1e9 * (wall_s + run.ended_at))
            span = tracer.start_span(
                f"segment {exit}",
                attributes={"offramp.image": image, "offramp.exit": exit},
                start_time=end_ns - round(1e9 * run.seconds),
            )
            span.end(end_ns)
