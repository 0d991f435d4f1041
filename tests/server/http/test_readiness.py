"""What failures inside look like from outside."""

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from models.bundle.bundle import Bundle, load_bundle
from server.app import create_app
from server.engine.breaker import MAX_FAILURES
from server.engine.model import ServedModel
from server.settings import load_settings
from server.telemetry.logs import JsonLines
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog
from server.zoo.repository import Repository
from tests.bundles import copied
from tests.e2e.v2 import request
from tests.server.engines import IMAGES, failing, numberless, tampered
from tests.server.http.test_departure import SLOW_S
from tests.server.live import PATIENCE_S, live, samples, until


def client(*models: ServedModel) -> TestClient:
    catalog, metrics = Catalog(), Metrics()
    for model in models:
        catalog.add(model)
        metrics.model_loaded(model)
    return TestClient(create_app(load_settings(), catalog, metrics))


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGES[0, :, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def test_ready_until_the_first_segment_is_out_of_use(digits_bundle: Bundle, png: bytes) -> None:
    model, headers = failing(digits_bundle, (1, False)), {"content-type": "image/png"}
    with client(model) as http:
        assert http.get("/readyz").status_code == 200
        for _ in range(MAX_FAILURES):
            answer = http.post("/v1/classify", content=png, headers=headers)
            assert answer.status_code == 500
            assert answer.json()["detail"] == "segment 1 of digits failed"
        answer = http.post("/v1/classify", content=png, headers=headers)
        refused = http.post("/v2/models/digits/infer", json=request(IMAGES[:1]))
        assert refused.status_code == 503
        assert refused.json() == {"error": "segment 1 of digits is out of use"}
        assert answer.status_code == 503
        for response in (answer, refused):
            assert 1 <= int(response.headers["retry-after"]) <= 3
        assert answer.json()["detail"] == "segment 1 of digits is out of use"
        for path in ("/v2/health/ready", "/v2/models/digits/ready"):
            ready = http.get(path)
            assert ready.status_code == 503
            assert ready.json() == {"error": "segment 1 of digits is out of use"}
        ready = http.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "segment 1 of digits is out of use\n")
        for path in ("/healthz", "/v2/health/live"):  # C2
            assert http.get(path).status_code == 200
        metrics = http.get("/metrics").text
        assert 'offramp_inferences_total{model="digits",outcome="failed"} 3.0' in metrics
        assert 'offramp_shed_total{reason="unavailable"} 2.0' in metrics
        model.breakers[1, False].retry_at = 0.0
        assert http.get("/readyz").status_code == 200, "the next batch tries again"


def test_ready_while_another_version_can_answer(
    digits_bundle: Bundle, png: bytes, tmp_path: Path
) -> None:
    copied(digits_bundle.path, tmp_path, "digits", 2)
    good = failing(load_bundle(tmp_path / "digits/2"))
    with client(failing(digits_bundle, (1, False)), good) as http:
        for _ in range(MAX_FAILURES):
            assert http.post(
                "/v2/models/digits/versions/1/infer", json=request(IMAGES[:1])
            ).is_error
        assert http.get("/v2/models/digits/versions/1/ready").status_code == 503
        assert http.get("/readyz").status_code == 200
        said = http.post("/v1/classify", content=png, headers={"content-type": "image/png"})
        assert (said.status_code, said.json()["version"]) == (200, 2)


def test_not_ready_without_a_model(digits_bundle: Bundle) -> None:
    with client(failing(digits_bundle)) as http:
        assert http.get("/readyz").status_code == 200
        assert http.post("/v2/repository/models/digits/unload").status_code == 200
        ready = http.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "no model is served\n")
        assert http.get("/healthz").status_code == 200


def test_a_failure_has_the_form_of_its_protocol_and_is_logged_with_its_request(
    digits_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with client(failing(digits_bundle, (1, False))) as http:
        failed = http.post(
            "/v2/models/digits/infer", json=request(IMAGES[:1]), headers={"x-request-id": "mine"}
        )
        (line,) = [record for record in caplog.records if record.name == "offramp.engine"]
        assert line.getMessage() == "segment 1 of digits failed"
        assert json.loads(JsonLines().format(line))["request_ids"] == ["mine"]
        assert failed.status_code == 500
        assert failed.json() == {"error": "segment 1 of digits failed"}
        (stats,) = http.get("/v2/models/digits/stats").json()["model_stats"]
        assert stats["inference_stats"]["fail"]["count"] == 1
        assert stats["inference_count"] == 0


def test_heads_that_say_no_number_are_an_error_without_one(
    digits_bundle: Bundle, png: bytes
) -> None:
    model = numberless(digits_bundle, 1, 2, 3)
    with client(model) as http:
        said = http.post("/v1/classify", content=png, headers={"content-type": "image/png"})
        tensors = http.post("/v2/models/digits/infer", json=request(IMAGES[:1]))
        for failed in (said, tensors):
            assert failed.status_code == 500
            assert "nan" not in failed.text.lower()
        metrics = http.get("/metrics").text
        assert 'offramp_inferences_total{model="digits",outcome="failed"} 2.0' in metrics


def test_an_error_that_nobody_expected_says_nothing(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    with client(failing(digits_bundle)) as http:
        monkeypatch.setattr(Repository, "find", fail)
        quiet = TestClient(http.app, raise_server_exceptions=False)
        said = quiet.get("/v2/models/digits")
        assert said.status_code == 500
        assert said.json() == {"error": "the server failed; its log says why"}


def test_not_ready_while_a_lane_is_lost(
    digits_bundle: Bundle, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.engine.WATCH_S", 1.0)  # time enough to ask
    stuck, release = threading.Event(), threading.Event()

    def get_stuck_once(exit: int, is_head: bool) -> None:
        if exit == 2 and not is_head and not stuck.is_set():
            stuck.set()
            release.wait(PATIENCE_S)

    def ready() -> tuple[int, str]:
        said = httpx.get(f"{url}/readyz")
        return said.status_code, said.text

    model = tampered(digits_bundle, get_stuck_once, per_row_s=SLOW_S)
    with live(model, workers=1, stall_s=0.1) as url, ThreadPoolExecutor(1) as pool:
        path, headers = f"{url}/v1/classify?threshold=1", {"content-type": "image/png"}
        asked = pool.submit(httpx.post, path, content=png, headers=headers)
        until(lambda: ready() == (503, "a lane is lost\n"))
        until(lambda: ready() == (200, "ready\n"))
        answer = asked.result().json()
        assert (answer["exit"], answer["stop_reason"]) == (1, "degraded")
        answer = httpx.post(path, content=png, headers=headers).json()
        assert (answer["exit"], answer["stop_reason"]) == (3, "final")
        said = samples(url)
        assert said["offramp_worker_restarts_total"] == 1
        assert said["offramp_in_flight"] == said["offramp_queue_depth"] == 0
        release.set()


def test_ready_while_a_later_segment_is_out_of_use(digits_bundle: Bundle, png: bytes) -> None:
    with client(failing(digits_bundle, (3, False))) as http:
        for _ in range(MAX_FAILURES + 1):
            answer = http.post(
                "/v1/classify?threshold=1", content=png, headers={"content-type": "image/png"}
            ).json()
            assert (answer["exit"], answer["stop_reason"]) == (2, "degraded")
        asked = request(IMAGES[:1], parameters={"threshold": 1.0})
        outputs = http.post("/v2/models/digits/infer", json=asked).json()["outputs"]
        said = {output["name"]: output["data"] for output in outputs}
        assert (said["exit"], said["stop_reason"]) == ([2], ["degraded"])
        assert http.get("/readyz").status_code == 200
