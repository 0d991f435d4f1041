"""What the routes share: made when the server starts, read from the request."""

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request

from server.engine.job import Demand, Job
from server.http.gate import Gate
from server.settings import Settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog
from server.zoo.repository import Repository


class Answering(Protocol):
    """An engine, here or elsewhere."""

    def check(self, demand: Demand, num_images: int) -> None: ...
    def submit(self, jobs: list[Job]) -> None: ...
    def cancel(self, jobs: Iterable[Job]) -> None: ...
    def queue_depth(self) -> int: ...
    def in_flight(self) -> int: ...
    def is_working(self) -> bool: ...
    def hurry(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class State:
    """The running server."""

    settings: Settings
    metrics: Metrics
    catalog: Catalog
    repository: Repository
    engine: Answering
    decoders: Executor
    gate: Gate


def state_of(request: Request) -> State:
    state: State = request.app.state.offramp
    return state
