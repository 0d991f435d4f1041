"""Starting a rival in processes of its own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from benchmarks.process import ServerProcess, free_port, started
from benchmarks.rivals.setup import Setup
from models.bundle.cores import num_cores

WORKERS = num_cores()


@dataclass(frozen=True)
class Rival:
    """A server to be held against; `limit` is how many requests it takes before it refuses."""

    name: str
    setup: Setup
    is_mosec: bool = False
    limit: int | None = None

    def with_limit(self, limit: int | None) -> Self:
        return replace(self, limit=limit)

    def with_budget(self, budget_ms: float) -> Self:
        """The same, dropping requests whose time is up."""
        setup = self.setup.model_copy(update={"budget_ms": budget_ms})
        return replace(self, name=f"{self.name}, dropping", setup=setup)

    def command(self, port: int) -> list[str]:
        if self.is_mosec:
            return [*self._mosec(), "--port", str(port)]
        limit = ["--limit-concurrency", str(self.limit)] if self.limit is not None else []
        return [
            *(sys.executable, "-m", "uvicorn", "--factory", "benchmarks.rivals.web:create_app"),
            *("--port", str(port), "--workers", str(WORKERS), "--loop", "uvloop"),
            *("--http", "httptools", "--no-access-log", "--log-level", "error"),
            *("--timeout-graceful-shutdown", "1"),
            # or uvicorn kills workers whose process the host starves for 5 s
            *("--timeout-worker-healthcheck", "60", *limit),
        ]

    def _mosec(self) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.rivals.batches", "--log-level", "error"]
        if self.limit is not None:
            command += ["--capacity", str(self.limit)]
        if (budget_ms := self.setup.budget_ms) is not None:
            command += ["--timeout", f"{budget_ms:.0f}"]
        return command


@contextmanager
def running(rival: Rival, port: int | None = None) -> Iterator[ServerProcess]:
    """The rival, ready to answer, until leaving; on a free port unless one is given."""
    port = port or free_port()
    ready = "/" if rival.is_mosec else "/readyz"
    with started(rival.command(port), port, rival.setup.environment(), ready) as server:
        yield server
