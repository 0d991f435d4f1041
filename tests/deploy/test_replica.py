"""An engine's replica without a cluster."""

import asyncio
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from server.app import local_engine
from server.engine.engine import Engine
from server.settings import Settings
from server.telemetry.metrics import Metrics

if find_spec("ray") is None:
    pytest.skip("needs requirements/ray.txt", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    from deploy.ray import replica
    from deploy.ray.replica import EngineReplica


@pytest.mark.parametrize(("given", "workers"), [({}, 1), ({"OFFRAMP_WORKERS": "3"}, 3)])
def test_workers_are_one_unless_a_setting_says_otherwise(
    digits_zoo: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], workers: int
) -> None:
    for name, value in {
        "OFFRAMP_ZOO": str(digits_zoo),
        "OFFRAMP_PROFILE_S": "0.01",
        **given,
    }.items():
        monkeypatch.setenv(name, value)
    seen = list[Settings]()

    def noted(settings: Settings, metrics: Metrics) -> Engine:
        seen.append(settings)
        return local_engine(settings, metrics)

    monkeypatch.setattr(replica, "local_engine", noted)

    async def run() -> None:
        EngineReplica().check_health()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert [settings.cores.workers for settings in seen] == [workers]
