"""`priority=background` in both protocols: answered in idle time, and nothing is promised of it."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle.bundle import Bundle
from server.engine.model import ServedModel
from tests.e2e.v2 import request
from tests.server.http.test_departure import gated
from tests.server.live import PNG, live, samples, until

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


def test_a_background_request_without_a_slot_is_one_refusal_and_no_overload(
    digits_bundle: Bundle,
) -> None:
    model, runner = gated(digits_bundle, exit=1)
    images = {"images": [base64.b64encode(PNG).decode()] * 2}
    with (
        live(model, max_in_flight=2, max_images=2) as url,
        httpx.Client(base_url=url, params={"priority": "background"}, timeout=30) as client,
        ThreadPoolExecutor() as clients,
    ):
        first = clients.submit(client.post, CLASSIFY, json=images)
        until(lambda: runner.num_waiting > 0)
        assert client.post(CLASSIFY, json=images).status_code == 503
        counted = samples(url)
        runner.gate.set()
        assert first.result().status_code == 200
    assert counted['offramp_shed_total{reason="background"}'] == 1
    assert counted['offramp_shed_total{reason="overload"}'] == 0


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
