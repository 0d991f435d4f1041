"""What the routes share: made when the server starts, read from the request."""

from concurrent.futures import Executor
from dataclasses import dataclass

from fastapi import Request

from server.catalog import Catalog
from server.engine import Engine
from server.gate import Gate
from server.metrics import Metrics
from server.repository import Repository
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    """The running server."""

    settings: Settings
    metrics: Metrics
    catalog: Catalog
    repository: Repository
    engine: Engine
    decoders: Executor
    gate: Gate


def state_of(request: Request) -> State:
    state: State = request.app.state.offramp
    return state
