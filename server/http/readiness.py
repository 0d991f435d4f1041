"""Whether requests are welcome, for every probe the same."""

import time

from server.engine.queues import Step
from server.http.state import State
from server.zoo.catalog import ServedModel


def reason_against(state: State) -> str | None:
    """Why the server wants no requests now, or None while it does."""
    if state.gate.is_draining:
        return "draining"
    if not state.engine.is_working():
        return "a worker is lost"
    if not state.catalog.names():
        return "no model is served"
    return next(filter(None, map(reason_against_model, state.catalog)), None)


def reason_against_model(model: ServedModel) -> str | None:
    """Why this model cannot answer now, or None while it can."""
    is_out = model.breakers[1, False].is_open(time.monotonic())
    return f"{Step(model, 1)} is out of use" if is_out else None
