"""Every error under /v2 has the same form, whatever says it (C9)."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from models.bundle.bundle import Bundle
from server.app import create_app
from server.engine.model import ServedModel
from server.gate import Gate
from server.settings import load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog
from tests.e2e.v2 import request as tensors
from tests.e2e.v2.conftest import refused
from tests.server.engines import IMAGES, failing
from tests.server.http.test_departure import INFER
from tests.server.http.test_limits import said, status
from tests.server.live import connect, live, request, until

ASKED = tensors(IMAGES[:1])


@contextmanager
def serving(model: ServedModel, **settings: object) -> Iterator[tuple[TestClient, Gate]]:
    catalog, metrics = Catalog(), Metrics()
    catalog.add(model)
    metrics.model_loaded(model)
    app = create_app(load_settings(**settings), catalog, metrics)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client, app.state.service.gate


def refusal(answer: Any, status: int) -> str:  # noqa: ANN401
    """What a response of the test client, which has an httpx of its own, refuses with."""
    headers = dict(answer.headers)
    return refused(
        httpx.Response(answer.status_code, headers=headers, content=answer.content), status
    )


def test_a_server_without_a_management_key(model: ServedModel) -> None:  # C9
    with serving(model, api_key_hashes=sha256(b"key").hexdigest()) as (client, _):
        refusal(client.post("/v2/repository/index"), 403)


def test_a_server_that_ends(model: ServedModel) -> None:  # C9
    with serving(model) as (client, gate):
        gate.is_draining = True
        for answer in (
            client.post(INFER, json=ASKED),
            client.post("/v2/repository/index"),
            client.get("/v2/health/ready"),
        ):
            refusal(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1


def test_more_requests_than_may_be_in_progress(model: ServedModel) -> None:  # C9
    with serving(model, max_requests=2) as (client, gate):
        gate.num_requests = 2
        assert "2 requests" in refusal(client.post(INFER, json=ASKED), 503)


def test_bodies_that_are_too_many_together(model: ServedModel) -> None:  # C9
    half = b"x" * 600

    def send() -> httpx.Response:
        return httpx.post(f"{url}{INFER}", content=half)

    with live(model, max_body_bytes=1000, max_held_bytes=1000) as url, connect(url) as first:
        first.sendall(request(INFER, half, num_bytes=1000))
        until(lambda: send().status_code == 503)
        answer = send()
        refused(answer, 503)
        assert answer.headers["connection"] == "close"


def test_a_body_that_does_not_come(model: ServedModel) -> None:  # C9
    with live(model, receive_timeout_s=0.1) as url, connect(url) as client:
        client.sendall(request(INFER, b"", num_bytes=1000))
        head, _, content = (answer := said(client)).partition(b"\r\n\r\n")
        lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
        headers = [(name, value) for name, value in lines]
        refused(httpx.Response(status(answer), headers=headers, content=content), 408)


def test_a_failure(digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:  # C9
    with serving(failing(digits_bundle, (1, False))) as (client, _):
        assert refusal(client.post(INFER, json=ASKED), 500) == "segment 1 of digits failed"
        monkeypatch.setattr("server.v2.infer.read_inference", None)
        assert "log" in refusal(client.post(INFER, json=ASKED), 500)
