"""Keys on /v2: one kind for asking, another for management, probes for all."""

from hashlib import sha256

import pytest
from fastapi.testclient import TestClient

from models.bundle.bundle import Bundle
from server.app import create_app
from server.settings import load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog
from tests.e2e.v2 import request
from tests.server.engines import IMAGES, failing

ASKING, MANAGING = "a-key-to-ask", "a-key-to-manage"


@pytest.mark.parametrize(
    ("key", "asks", "manages"), [(None, 401, 401), (ASKING, 200, 401), (MANAGING, 401, 200)]
)
def test_keys(
    digits_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    asks: int,
    manages: int,
) -> None:
    for name, secret in (("API", ASKING), ("MANAGEMENT", MANAGING)):
        hashed = sha256(secret.encode()).hexdigest()
        monkeypatch.setenv(f"OFFRAMP_{name}_KEY_HASHES", hashed)
    monkeypatch.setenv("OFFRAMP_ZOO", str(digits_bundle.path.parents[1]))
    catalog, metrics, model = Catalog(), Metrics(), failing(digits_bundle)
    catalog.add(model)
    metrics.model_loaded(model)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with TestClient(create_app(load_settings(), catalog, metrics), headers=headers) as client:
        for path in ("", "/health/live", "/health/ready"):
            assert client.get(f"/v2{path}").status_code == 200
        said = [client.get(f"/v2/models/digits{path}") for path in ("", "/ready", "/stats")]
        said += [client.get("/v2/models/stats"), client.get("/v2/models/digits/versions/1")]
        said += [client.post("/v2/models/digits/infer", json=request(IMAGES[:1]))]
        assert {answer.status_code for answer in said} == {asks}
        managed = [client.post("/v2/repository/index")]
        managed += [client.post(f"/v2/repository/models/digits/{s}") for s in ("load", "unload")]
        assert {answer.status_code for answer in managed} == {manages}
        for answer in (*said, *managed):
            if answer.status_code == 401:
                assert list(answer.json()) == ["error"]
                assert answer.headers["www-authenticate"] == "Bearer"
