import asyncio

import pytest

from server.gate import Gate
from server.processes.everywhere import SharedRepository, raised
from server.processes.wire import Wire
from server.settings import load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog
from server.zoo.repository import Repository


def test_the_parent_hears_of_every_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It makes one change at a time: one that never ended would hold up all later ones."""

    async def fail(*_: object) -> None:
        raise MemoryError("the memory for metrics is full")

    async def run() -> object:
        parent = Wire(lambda _: asyncio.sleep(0))
        repository = SharedRepository(parent, load_settings(), Catalog(), Metrics(), Gate(1))
        return await repository.do(["do", "load", "digits", 1])

    monkeypatch.setattr(Repository, "load", fail)
    said = asyncio.run(run())
    assert isinstance(said, dict)
    assert (said["is_done"], said["error"]["kind"]) == (False, "MemoryError")
    assert "models were not changed" in caplog.text
    assert isinstance(raised(said["error"]), RuntimeError)
