"""The ingress without a cluster: it describes the bundles that it started with, and keeps them."""

import asyncio
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

if find_spec("ray") is None:
    pytest.skip("needs requirements/ray.txt", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    from deploy.ray.application import MAX_ONGOING, Ingress
from server.settings import load_settings


def test_background_requests_never_keep_others_from_an_engine() -> None:
    assert 2 * load_settings().limits.max_in_flight < MAX_ONGOING


def test_bundles_are_not_changed_in_the_ingress_alone(
    digits_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFRAMP_ZOO", str(digits_zoo))
    monkeypatch.setenv("OFFRAMP_PROFILE_S", "0.01")
    monkeypatch.setenv("OFFRAMP_WATCH_INTERVAL_S", "1")

    async def run() -> list[httpx.Response]:
        replicas: Any = None
        app = Ingress(replicas).__serve_build_asgi_app__()
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app):
            assert app.state.service.settings.models.watch_interval_s is None
            async with httpx.AsyncClient(transport=transport, base_url="http://ingress") as client:
                model = "/v2/repository/models/digits"
                steps = [await client.post(f"{model}/{step}") for step in ("load", "unload")]
                return [*steps, await client.get("/v2/models/digits/ready")]

    load, unload, ready = asyncio.run(asyncio.wait_for(run(), 60))
    assert load.status_code == unload.status_code == 403
    assert "restart the application to change bundles" in load.json()["error"]
    assert ready.status_code == 200
