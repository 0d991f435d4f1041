"""What holds on to a model, and what a load survives; see tests/e2e for the rest."""

import asyncio
import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle.bundle import Bundle, BundleError
from models.bundle.manifest import Key
from server.app import load_catalog
from server.engine.model import ServedModel
from server.errors import NotReady, UnknownModel
from server.gate import Gate
from server.settings import Settings, load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog, serve_bundle
from server.zoo.repository import Repository
from server.zoo.watcher import watch
from tests.bundles import copied, edit, sign
from tests.server.engines import results_of, running
from tests.server.http.test_departure import ENDINGS, PATH, ended, gated
from tests.server.live import PATIENCE_S, PNG, live, samples, until


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def repository(digits_bundle: Bundle, tmp_path: Path, metrics: Metrics) -> Repository:
    for version in (1, 2):
        copied(digits_bundle.path, tmp_path, "digits", version)
    settings = load_settings(zoo=tmp_path, profile_s=0.2)
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


def test_the_watcher_loads_what_came_while_models_were_loading(
    digits_bundle: Bundle, tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(digits_bundle.path, tmp_path, "digits", 1)
    settings = load_settings(zoo=tmp_path, profile_s=0.2)

    def served(path: Path, settings: Settings, _: object) -> ServedModel:
        model = serve_bundle(path, settings)
        copied(digits_bundle.path, tmp_path, "digits", 2)
        return model

    monkeypatch.setattr("server.app.serve_bundle", served)
    repository = Repository(settings, load_catalog(settings, metrics), metrics, Gate(1))

    first = repository.find("digits", 1)
    has_come = lambda: repository.catalog.get(("digits", 2)) is not None  # noqa: E731
    asyncio.run(watched(repository, tmp_path, has_come))
    assert repository.find("digits", None).key == ("digits", 2)
    assert repository.find("digits", 1) is first, "unchanged"


def test_a_bundle_whose_files_cannot_be_looked_at_does_not_keep_others_from_serving(
    digits_bundle: Bundle, tmp_path: Path, metrics: Metrics
) -> None:
    copied(digits_bundle.path, tmp_path, "digits", 1)
    (tmp_path / "digits/2").mkdir()
    (tmp_path / "digits/2/manifest.json").symlink_to(tmp_path / "gone")
    catalog = load_catalog(load_settings(zoo=tmp_path, profile_s=0.2), metrics)
    assert [model.key for model in catalog] == [("digits", 1)]
    assert list(catalog.reasons) == [("digits", 2)]
    repository = Repository(load_settings(zoo=tmp_path, profile_s=0.2), catalog, metrics, Gate(1))
    copied(digits_bundle.path, tmp_path, "digits", 3)
    asyncio.run(watched(repository, tmp_path, lambda: catalog.get(("digits", 3)) is not None))
    assert repository.find("digits", None).key == ("digits", 3)


def test_the_watcher_loads_a_successor_before_it_unloads(
    digits_bundle: Bundle, tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(digits_bundle.path, tmp_path, "digits", 1)
    settings = load_settings(zoo=tmp_path, profile_s=0.2)
    catalog = load_catalog(settings, metrics)
    served = list[list[Key]]()

    def loaded(*arguments: Any) -> ServedModel:  # noqa: ANN401
        served.append([model.key for model in catalog])
        return serve_bundle(*arguments)

    monkeypatch.setattr("server.zoo.repository.serve_bundle", loaded)
    repository = Repository(settings, catalog, metrics, Gate(1))
    copied(digits_bundle.path, tmp_path, "digits", 2)
    shutil.rmtree(tmp_path / "digits/1")
    asyncio.run(watched(repository, tmp_path, lambda: catalog.get(("digits", 1)) is None))
    assert served == [[("digits", 1)]]
    assert [model.key for model in catalog] == [("digits", 2)]


def test_a_directory_that_comes_with_another_name_is_logged_once(
    repository: Repository, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = iter(("v2", "v3"))  # the first is there before the watcher looks

    def is_told() -> bool:
        if name := next(names, None):
            (tmp_path / "digits" / name).mkdir()
        return "digits/v3" in caplog.text

    asyncio.run(watched(repository, tmp_path, is_told))
    assert [r.getMessage() for r in caplog.records if "skipped" in r.msg] == [
        f"skipped, since its name is not that of a bundle, NAME/VERSION: {tmp_path}/digits/v3"
    ]


async def watched(repository: Repository, zoo: Path, has_happened: Callable[[], bool]) -> None:
    """Watches a zoo until something has happened, or for PATIENCE_S."""
    watching = asyncio.create_task(watch(repository, zoo, 0.01))
    deadline = time.monotonic() + PATIENCE_S
    while not has_happened() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    watching.cancel()


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


def test_what_is_not_served_is_not_ready_with_or_without_its_name(repository: Repository) -> None:
    async def run() -> None:
        with pytest.raises(NotReady, match="no model is served"):
            repository.find(None, None)
        await repository.load("digits")
        assert repository.find(None, None).key == ("digits", 2)
        await repository.unload("digits", 1)
        for name in ("digits", None):
            with pytest.raises(NotReady, match="digits version 1 is not served: unloaded"):
                repository.find(name, 1)
        with pytest.raises(UnknownModel, match="digits has no version 3, only 2"):
            repository.find(None, 3)
        await repository.unload("digits")
        with pytest.raises(NotReady, match="digits version 2 is not served: unloaded"):
            repository.find("digits", None)
        with pytest.raises(NotReady, match="no model is served"):
            repository.find(None, 2)

    asyncio.run(run())


def test_a_version_is_loading_while_it_is_measured(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:  # C32
    measuring, gate = threading.Event(), threading.Event()

    def gated_bundle(*arguments: Any) -> ServedModel:  # noqa: ANN401
        measuring.set()
        assert gate.wait(PATIENCE_S)
        return serve_bundle(*arguments)

    async def states() -> list[tuple[int, str]]:
        return [(entry.key[1], entry.state) for entry in await repository.index()]

    async def run() -> None:
        load = asyncio.create_task(repository.load("digits", 2))
        await asyncio.to_thread(measuring.wait, PATIENCE_S)
        assert await states() == [(1, "UNAVAILABLE"), (2, "LOADING")]
        gate.set()
        await load
        assert await states() == [(1, "UNAVAILABLE"), (2, "READY")]

    monkeypatch.setattr("server.zoo.repository.serve_bundle", gated_bundle)
    asyncio.run(run())


def test_a_request_ends_with_the_version_it_began_with(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=2)
    headers = {"content-type": "image/png"}
    with (
        live(model, zoo=digits_bundle.path.parents[1]) as url,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(httpx.post, f"{url}{PATH}", content=PNG, headers=headers)
        until(lambda: runner.num_waiting == 1)
        assert httpx.post(f"{url}/v2/repository/models/digits/unload").status_code == 200
        refused = httpx.post(f"{url}{PATH}&model=digits", content=PNG, headers=headers)
        assert (refused.status_code, "unloaded" in refused.text) == (503, True)
        runner.gate.set()
        said = asked.result()
        assert said.status_code == 200
        assert (said.json()["version"], said.json()["exit"]) == (1, 3)
        assert [samples(url)[ended(outcome)] for outcome in ENDINGS] == [1, 0, 0]


def test_a_bundle_needs_the_operating_point_that_requests_get(
    digits_bundle: Bundle, tmp_path: Path
) -> None:
    def forget(bundle: Path) -> None:
        points = "operating_points"
        edit(bundle / "calibration.json", lambda calibration: calibration[points].pop("balanced"))
        sign(bundle)

    copied(digits_bundle.path, tmp_path, "digits", 1, forget)
    with pytest.raises(BundleError, match=r"has no operating point named balanced$"):
        serve_bundle(tmp_path / "digits/1", load_settings())
