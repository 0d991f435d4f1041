"""`priority=background` in both protocols: answered in idle time, and nothing is promised of it."""

from typing import Any

import httpx
import numpy as np
import pytest

from server.engine.model import ServedModel
from tests.e2e.v2 import request
from tests.server.live import PNG, live, samples

IMAGE = np.zeros((1, 8, 8, 1), np.uint8)
HEADERS = {"content-type": "image/png"}
CLASSIFY, INFER = "/v1/classify", "/v2/models/digits/infer"
ROUTES = {CLASSIFY: CLASSIFY, INFER: "/v2/models/{name}/infer"}


def test_background_is_answered_counted_and_not_timed(model: ServedModel) -> None:
    parameters: dict[str, Any] = {"priority": "background", "threshold": 1.0}
    with live(model) as url, httpx.Client(base_url=url, timeout=30) as client:
        said = client.post(CLASSIFY, params=parameters, content=PNG, headers=HEADERS).json()
        assert (said["exit"], said["stop_reason"]) == (3, "final")
        body = request(IMAGE, parameters=parameters)
        assert client.post(INFER, json=body).status_code == 200
        counted = samples(url)
        assert counted['offramp_exits_total{exit="3",model="digits"}'] == 2
        for name in ("answer_duration_seconds", "queue_wait_seconds"):
            assert sum(v for k, v in counted.items() if k.startswith(f"offramp_{name}_count")) == 0
        for route in ROUTES.values():
            assert counted[f'offramp_requests_total{{code="200",route="{route}"}}'] == 1
            timed = f'offramp_request_duration_seconds_count{{route="{route}"}}'
            assert counted[timed] == 0


@pytest.mark.parametrize("latency", ["latency_budget_ms", "timeout"])
def test_background_excludes_a_latency_budget(model: ServedModel, latency: str) -> None:
    parameters: dict[str, Any] = {"priority": "background", latency: 1000}
    with live(model) as url, httpx.Client(base_url=url, timeout=30) as client:
        said = client.post(INFER, json=request(IMAGE, parameters=parameters))
        assert said.status_code == 400
        assert "background excludes a latency budget" in said.json()["error"]
        if latency != "timeout":
            said = client.post(CLASSIFY, params=parameters, content=PNG, headers=HEADERS)
            assert said.json()["errors"][0]["field"] == "priority"
        assert client.post(INFER, json=request(IMAGE, parameters={"priority": 3})).is_success
        unknown = client.post(INFER, json=request(IMAGE, parameters={"priority": "high"}))
        assert unknown.status_code == 400
