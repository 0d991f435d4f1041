"""Keys, cross-origin requests, and what the log says of a request."""

import json
import logging
from contextlib import nullcontext
from hashlib import sha256
from hmac import compare_digest
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from server.engine.model import ServedModel
from server.errors import Unauthenticated
from server.gate import Gate
from server.http import problems
from server.http.access import check_key, trusted
from server.http.decode import Images
from server.service import Service
from server.settings import SettingsError, load_settings
from server.telemetry.logs import JsonLines
from tests.server.live import PNG, live, samples

KEY, OTHER = "a-long-random-key", "another-long-random-key"
HEADERS = {"content-type": "image/png"}
OPEN = ("/healthz", "/readyz", "/metrics", "/openapi.json")


def hashes(*keys: str) -> str:
    return ",".join(sha256(key.encode()).hexdigest() for key in keys)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


WITHOUT_KEY: tuple[Any, ...] = (
    {},
    bearer("wrong"),
    {"authorization": "Bearer"},
    bearer(KEY + "x"),
    bearer(sha256(KEY.encode()).hexdigest()),
    {"authorization": f"Basic {KEY}"},
    {"authorization": KEY},
    {"authorization": b"Bearer \xff\xfe"},
)


def test_without_a_key_nothing_is_answered(model: ServedModel) -> None:
    with live(model, api_key_hashes=hashes(KEY)) as url, httpx.Client(base_url=url) as client:
        for headers in WITHOUT_KEY:
            for said in (
                client.post("/v1/classify", content=PNG, headers=HEADERS | headers),
                client.post("/v1/classify?top_k=0", content=b"", headers=headers),
                client.get("/v1/models", headers=headers),
            ):
                assert said.status_code == 401, headers
                assert said.headers["www-authenticate"] == "Bearer"
                assert said.headers["content-type"] == "application/problem+json"
        assert sum(v for k, v in samples(url).items() if "inferences_total" in k) == 0


def test_every_key_of_the_list_is_taken_and_probes_need_none(model: ServedModel) -> None:
    with live(model, api_key_hashes=hashes(KEY, OTHER)) as url:
        for key in (KEY, OTHER):
            said = httpx.post(f"{url}/v1/classify", content=PNG, headers=HEADERS | bearer(key))
            assert said.status_code == 200
        assert [httpx.get(f"{url}{path}").status_code for path in OPEN] == [200] * len(OPEN)


@pytest.mark.parametrize("given", [KEY, OTHER, "wrong", None])
def test_every_hash_is_compared_whichever_it_is(
    monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    compared: list[bytes] = []

    def counted(digest: bytes, known: bytes) -> bool:
        compared.append(known)
        return compare_digest(digest, known)

    monkeypatch.setattr("server.http.access.compare_digest", counted)
    hashed = tuple(sha256(key.encode()).digest() for key in (KEY, OTHER, "third"))
    header = "" if given is None else f"Bearer {given}"
    with nullcontext() if given in (KEY, OTHER) else pytest.raises(Unauthenticated):
        check_key(header, hashed)
    assert compared == list(hashed)


@pytest.mark.parametrize(
    ("settings", "key", "status"),
    [
        ({}, None, 200),
        ({"api_key_hashes": hashes(KEY)}, KEY, 403),
        ({"management_key_hashes": hashes(OTHER)}, None, 401),
        ({"api_key_hashes": hashes(KEY), "management_key_hashes": hashes(OTHER)}, KEY, 401),
        ({"api_key_hashes": hashes(KEY), "management_key_hashes": hashes(OTHER)}, OTHER, 200),
    ],
)
def test_management_has_keys_of_its_own(
    settings: dict[str, str], key: str | None, status: int
) -> None:
    client, _ = managed(settings)
    assert client.post("/load", headers=bearer(key) if key else {}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1", 200),
        ("https://console.example", 200),
        ("https://page.example", 403),
        ("http://127.0.0.1:8001", 403),
        ("http://127.0.0.1.page.example", 403),
        ("http://[", 403),
        ("http://", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_pages_of_other_origins_do_not_manage(origin: str, status: int) -> None:
    client, _ = managed({"cors_origins": "https://console.example"})
    said = client.post("/load", headers={"origin": origin, "host": "127.0.0.1"})
    assert said.status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("Localhost", 200),
        ("page.example:8000", 403),
        ("127.0.0.1.page.example", 403),
        ("localhost.page.example", 403),
        ("[::1", 403),
    ],
)
def test_a_name_that_leads_here_is_no_reason_to_trust_its_pages(host: str, status: int) -> None:
    headers = {"origin": f"http://{host}", "host": host}
    client, _ = managed({})
    assert client.post("/load", headers=headers).status_code == status
    client, _ = managed({"cors_origins": headers["origin"]})
    assert client.post("/load", headers=headers).status_code == 200
    client, _ = managed({"management_key_hashes": hashes(KEY)})
    assert client.post("/load", headers=headers).status_code == 401
    assert client.post("/load", headers=headers | bearer(KEY)).status_code == 200


def test_a_server_that_ends_loads_nothing_any_more() -> None:
    client, gate = managed({})
    gate.is_draining = True
    said = client.post("/load")
    assert (said.status_code, said.headers["retry-after"].isdigit()) == (503, True)


def managed(settings: dict[str, str]) -> tuple[TestClient, Gate]:
    """A route for management, on a server with these settings."""
    app = FastAPI()
    problems.install(app)
    nothing: Any = None
    gate = Gate(max_requests=1)
    app.state.service = Service(load_settings(**settings), nothing, nothing, nothing, nothing, gate)
    app.post("/load", dependencies=[Depends(trusted)])(lambda: "loaded")
    return TestClient(app), gate


def test_keys_and_origins_are_read_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFRAMP_API_KEY_HASHES", hashes(KEY, OTHER))
    monkeypatch.setenv("OFFRAMP_CORS_ORIGINS", "https://a.example,https://b.example")
    settings = load_settings()
    assert settings.access.api_key_hashes == (
        sha256(KEY.encode()).digest(),
        sha256(OTHER.encode()).digest(),
    )
    assert settings.access.cors_origins == ("https://a.example", "https://b.example")
    options = load_settings(management_key_hashes=hashes(KEY, OTHER))
    assert options.access.management_key_hashes == settings.access.api_key_hashes


@pytest.mark.parametrize("bad", [KEY, "abcd", hashes(KEY) + "0"])
def test_what_is_no_hash_stops_the_start(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    monkeypatch.setenv("OFFRAMP_API_KEY_HASHES", bad)
    with pytest.raises(SettingsError, match="OFFRAMP_API_KEY_HASHES") as refused:
        load_settings()
    assert bad not in str(refused.value), "it may be a key, given by mistake"


@pytest.mark.parametrize("name", ["API", "MANAGEMENT"])
def test_a_secret_that_was_not_filled_in_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"OFFRAMP_{name}_KEY_HASHES", " ,")
    with pytest.raises(SettingsError, match=f"OFFRAMP_{name}_KEY_HASHES: .*there is no hash"):
        load_settings()
    monkeypatch.delenv(f"OFFRAMP_{name}_KEY_HASHES")
    assert load_settings().access.api_key_hashes == ()


ORIGIN = {"origin": "https://page.example"}
PREFLIGHT = ORIGIN | {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,inference-header-content-length",
}


def test_no_page_may_call_by_default(model: ServedModel) -> None:
    with live(model) as url:
        assert httpx.options(f"{url}/v1/classify", headers=PREFLIGHT).status_code == 405
        said = httpx.post(f"{url}/v1/classify", content=PNG, headers=HEADERS | ORIGIN)
        assert not [name for name in said.headers if name.startswith("access-control")]


def test_pages_of_given_origins_may_call(model: ServedModel) -> None:
    settings = {"cors_origins": ORIGIN["origin"], "api_key_hashes": hashes(KEY)}
    with live(model, **settings) as url:
        said = httpx.options(f"{url}/v1/classify", headers=PREFLIGHT)
        assert said.status_code == 200
        assert said.headers["access-control-allow-origin"] == ORIGIN["origin"]
        elsewhere = PREFLIGHT | {"origin": "https://elsewhere.example"}
        said = httpx.options(f"{url}/v1/classify", headers=elsewhere)
        assert said.status_code == 400
        said = httpx.post(f"{url}/v1/classify", content=PNG, headers=HEADERS | ORIGIN)
        assert said.status_code == 401
        assert said.headers["access-control-allow-origin"] == ORIGIN["origin"]


def test_headers_of_one_name_are_a_list(model: ServedModel) -> None:
    """Of two media types each is read; two keys are none, and two types of content too."""
    key, other = (("authorization", f"Bearer {each}") for each in (KEY, OTHER))
    image, text = (("content-type", each) for each in ("image/png", "text/plain"))
    accepts = ("accept", "text/event-stream"), ("accept", "application/json")
    asked = ("POST", "/v1/classify"), ("GET", "/v1/models"), ("POST", "/v2/repository/index")
    with (
        live(model, api_key_hashes=hashes(KEY), management_key_hashes=hashes(KEY)) as url,
        httpx.Client(base_url=url) as http,
    ):
        for keys in ([key, other], [other, key], [key, key]):
            said = [http.request(*each, headers=keys).status_code for each in asked]
            assert said == [401, 401, 401]
        for lines in (accepts, accepts[::-1]):
            stream = http.post(asked[0][1], content=PNG, headers=[key, image, *lines])
            assert stream.headers["content-type"].startswith("text/event-stream")
        refused = http.post(asked[0][1], content=PNG, headers=[key, image, text])
        assert refused.status_code == 415
        assert refused.json()["detail"].startswith("content type 'image/png, text/plain'; served")


@pytest.mark.parametrize("given", ["7", "a" * 128, "1f0e-4.b_C"])
def test_a_sane_request_id_comes_back(model: ServedModel, given: str) -> None:
    with live(model) as url:
        said = httpx.get(f"{url}/nowhere", headers={"x-request-id": given})
        assert said.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [b"", b"a" * 129, b"a b", b'"', b"a\tb", b"\xc3\xb6", b"{}"])
def test_another_is_replaced(model: ServedModel, given: bytes) -> None:
    with live(model) as url:
        said = [httpx.get(f"{url}/healthz", headers={b"x-request-id": given}) for _ in range(2)]
        ids = {answer.headers["x-request-id"] for answer in said}
        assert len(ids) == 2
        assert all(len(own) == 32 and own.isalnum() for own in ids)


def test_one_line_per_request_and_no_secret_in_it(
    model: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(JsonLines())
    caplog.set_level(logging.INFO)
    path = "/v1/classify?threshold=1&operating=secret-query"
    with live(model, api_key_hashes=hashes(KEY)) as url:
        headers = HEADERS | bearer(KEY) | {"x-request-id": "mine"}
        answer = httpx.post(f"{url}/v1/classify?threshold=1", content=PNG, headers=headers).json()
        httpx.post(f"{url}{path}", content=PNG, headers=headers)
        httpx.get(f"{url}/secret-path")
        httpx.post(f"{url}/v1/classify", content=PNG, headers=HEADERS | bearer("secret-wrong"))
    access = [r for r in caplog.records if r.name == "offramp.access"]
    lines = [json.loads(JsonLines().format(record)) for record in access]
    assert [(line["route"], line["code"], line["exits"]) for line in lines] == [
        ("/v1/classify", 200, [3]),
        ("/v1/classify", 422, []),
        ("unmatched", 404, []),
        ("/v1/classify", 401, []),
    ]
    assert all(line["method"] in ("GET", "POST") and line["duration_ms"] > 0 for line in lines)
    assert answer["label"] not in json.dumps([line["message"] for line in lines])
    logged = json.dumps([JsonLines().format(r) for r in caplog.records if "http" not in r.name])
    for secret in (KEY, hashes(KEY), "secret", "Bearer"):
        assert secret not in logged


@pytest.mark.parametrize("path", ["/v1/classify", "/v2/models/digits/infer"])
def test_an_unexpected_failure_is_logged_with_its_request(
    model: ServedModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("made to fail")

    caplog.handler.setFormatter(JsonLines())
    monkeypatch.setattr(Images, "decode", fail)
    monkeypatch.setattr("server.v2.infer.read_inference", fail)
    with live(model, cors_origins=ORIGIN["origin"]) as url:
        headers = HEADERS | ORIGIN | {"x-request-id": "mine"}
        said = httpx.post(f"{url}{path}", content=PNG, headers=headers)
        assert said.headers["access-control-allow-origin"] == ORIGIN["origin"]
        assert (said.status_code, said.headers["x-request-id"]) == (500, "mine")
        assert "made to fail" not in said.text
    (line,) = [json.loads(line) for line in caplog.text.splitlines() if "made to fail" in line]
    assert line["request_id"] == "mine"
    assert "Traceback" in line["exception"]


def test_a_line_stays_one_line() -> None:
    record = logging.LogRecord("n", logging.ERROR, "", 0, "a\r\n%s", ('b"\n',), None)
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == 'a\r\nb"\n'
