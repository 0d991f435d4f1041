"""What the edge does for every route: keys, HEAD, prefixes, one line in the log."""

import logging
import re
from hashlib import sha256

import httpx
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from server.app import create_app, find_hot
from server.engine.model import ServedModel
from server.settings import load_settings
from server.telemetry.metrics import Metrics
from server.v1 import classify
from server.v2 import infer
from server.zoo.catalog import Catalog
from tests.server.engines import IMAGES
from tests.server.live import PNG, live, samples

KEY = "a-long-random-key"
DOCS = {"/docs", "/docs/oauth2-redirect"}
PROBES = {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
PAGE = {"/", "/page/{name:path}"}
OPEN = {"/v2", "/v2/", *PROBES, *DOCS, *PAGE}
HOT = {route.path for route in (classify.ROUTE, infer.DEFAULT_VERSION, infer.GIVEN_VERSION)}
VALUES = {"name": "digits", "version": "1"}
HEADERS = {"content-type": "image/png"}


def client(model: ServedModel, **settings: object) -> TestClient:
    catalog, metrics = Catalog(), Metrics()
    catalog.add(model)
    metrics.model_loaded(model)
    return TestClient(create_app(load_settings(**settings), catalog, metrics))


def filled(template: str) -> str:
    return re.sub(r"{(\w+)}", lambda found: VALUES[found[1]], template)


def test_no_route_but_probes_is_reached_without_a_key(model: ServedModel) -> None:
    hashed = sha256(KEY.encode()).hexdigest()
    found: dict[str, int] = {}
    with client(model, api_key_hashes=hashed, management_key_hashes=hashed) as http:
        for route in http.app.routes:  # type: ignore[attr-defined]
            if not isinstance(route, APIRoute):
                continue  # the document and its pages
            method = next(iter(route.methods or ()))
            said = http.request(method, filled(route.path))
            found[route.path] = said.status_code
    assert {path for path, status in found.items() if status != 401} == OPEN
    assert found.keys() >= HOT


def test_every_hot_route_is_documented_and_the_edge_answers_it(model: ServedModel) -> None:
    with client(model) as http:
        templates = [r.path for r in http.app.routes if isinstance(r, APIRoute)]  # type: ignore[attr-defined]
    hot = {path: find_hot("POST", filled(path)) for path in templates}
    assert {path for path, route in hot.items() if route is not None} == HOT
    assert all(route is None or route.path == path for path, route in hot.items())
    assert not any(find_hot(method, filled(path)) for path in HOT for method in ("GET", "PUT"))


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/v1/models", "/v2", "/v2/models/digits", "/docs"]
)
def test_head_is_a_get_without_its_body(model: ServedModel, path: str) -> None:
    with live(model) as url:
        said, whole = httpx.head(f"{url}{path}"), httpx.get(f"{url}{path}")
        assert (said.status_code, said.content) == (200, b"")
        assert said.headers["content-type"] == whole.headers["content-type"]
        assert int(said.headers["content-length"]) > 0
        for each in (path, "/openapi.json", "/static-offline-docs/none"):
            allow = httpx.put(f"{url}{each}").headers["allow"]
            assert sorted(allow.split(", ")) == ["GET", "HEAD"]
        assert httpx.head(f"{url}/v1/classify").headers["allow"] == "POST"
        assert httpx.head(f"{url}/nowhere").status_code == 404


@pytest.mark.parametrize("prefix", ["", "/offramp"])
def test_a_prefix_may_be_stripped_or_left(model: ServedModel, prefix: str) -> None:
    asked = {"inputs": [{
        "name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 1],
        "data": IMAGES[0].ravel().tolist(),
    }]}  # fmt: skip
    with live(model, root_path="/offramp") as url:
        said = httpx.post(f"{url}{prefix}/v1/classify", content=PNG, headers=HEADERS)
        assert (said.status_code, said.json()["model"]) == (200, "digits")
        tensors = httpx.post(f"{url}{prefix}/v2/models/digits/infer", json=asked)
        assert (tensors.status_code, tensors.json()["model_name"]) == (200, "digits")
        unknown = httpx.get(f"{url}{prefix}/v2/models/none")
        assert (unknown.status_code, list(unknown.json())) == (404, ["error"])
        assert httpx.get(f"{url}{prefix}/healthz").status_code == 200
        document = httpx.get(f"{url}{prefix}/openapi.json").json()
        assert document["servers"] == [{"url": "/offramp"}]


@pytest.mark.parametrize("path", ["/v1/classify%0A", "/v2/models/digits/infer%0A"])
def test_a_path_that_only_looks_like_a_hot_one_is_not_found(model: ServedModel, path: str) -> None:
    with live(model) as url:
        assert httpx.post(f"{url}{path}", content=PNG, headers=HEADERS).status_code == 404


def test_the_last_line_of_the_log_is_not_lost(
    model: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines are written up to 0.05 s late."""
    caplog.set_level(logging.INFO)
    with client(model) as http:
        http.get("/healthz")
    lines = [record for record in caplog.records if record.name == "offramp.access"]
    assert [line.__dict__["fields"]["route"] for line in lines] == ["/healthz"]


def test_requests_are_counted_once_each(model: ServedModel) -> None:
    with live(model) as url:
        for _ in range(3):
            httpx.post(f"{url}/v1/classify", content=PNG, headers=HEADERS)
        said = samples(url)
        assert said['offramp_requests_total{code="200",route="/v1/classify"}'] == 3
        assert said['offramp_request_duration_seconds_count{route="/v1/classify"}'] == 3
