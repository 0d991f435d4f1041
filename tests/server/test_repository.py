"""What holds on to a model, and what a load survives; see tests/e2e for the rest."""

import asyncio
import gc
import time
import weakref
from pathlib import Path

import pytest

from models.bundle.bundle import Bundle
from server.catalog import Catalog
from server.errors import NotReady
from server.gate import Gate
from server.metrics import Metrics
from server.repository import Repository
from server.settings import load_settings
from tests.bundles import copied
from tests.server.engines import results_of, running


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def repository(digits_bundle: Bundle, tmp_path: Path, metrics: Metrics) -> Repository:
    for version in (1, 2):
        copied(digits_bundle.path, tmp_path, "digits", version)
    settings = load_settings(["--zoo", str(tmp_path), "--profile-s", "0.2"])
    return Repository(settings, Catalog(), metrics, Gate(1))


def test_nothing_keeps_an_unloaded_model_alive(repository: Repository, metrics: Metrics) -> None:
    async def run() -> None:
        async with running(metrics=metrics) as engine:
            await repository.load("digits")
            model = repository.find("digits", 2)
            costs = weakref.ref(model.costs)
            await results_of(engine, model, rows=4)
            await repository.unload("digits", 2)
            del model
            await results_of(engine, repository.find("digits", None))
            deadline = time.monotonic() + 5  # a worker may be on its way back to its queue
            while costs() is not None and time.monotonic() < deadline:
                gc.collect()
                await asyncio.sleep(0.01)
            assert costs() is None
            with pytest.raises(NotReady, match="unloaded"):
                repository.find("digits", 2)
            assert repository.find("digits", None).key == ("digits", 1)

    asyncio.run(run())


def test_a_load_goes_on_when_nobody_waits_for_it_any_more(repository: Repository) -> None:
    async def run() -> None:
        load = asyncio.create_task(repository.load("digits", 1))
        await asyncio.sleep(0)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await repository.load("digits", 2)
        assert repository.find("digits", 1).key == ("digits", 1)

    asyncio.run(run())
