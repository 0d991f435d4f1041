"""What routes depend on before they read anything."""

from fastapi import Request

from server.errors import Overloaded
from server.metrics import SHED_REASONS
from server.state import state_of


async def admitted(request: Request) -> None:
    """For routes that do work: refuses them where there is too much of it."""
    state = state_of(request)
    try:
        state.gate.check()
    except Overloaded as error:
        state.metrics.shed(SHED_REASONS[type(error)], 1)
        raise
