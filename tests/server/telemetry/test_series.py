"""The series of /metrics: those the guide lists, there from the start, whatever is then asked."""

import re
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.process import ROOT
from models.bundle.bundle import Bundle
from tests.server.http.test_departure import gated, gone
from tests.server.live import PNG, connect, live, request, samples, until

HEADERS = {"content-type": "image/png"}
STREAM = HEADERS | {"accept": "text/event-stream"}
ROW = re.compile(r"\| `(offramp_\w+)(?:\{([\w,]+)\})?` \| (counter|gauge|histogram) \| .+ \|")
METER = ("offramp_meter_joules_total", {"source"}, "counter")
LOADED = {
    "offramp_calibration_exit_ratio",
    "offramp_model_info",
    "offramp_processes",
    "offramp_queue_capacity",
}
CODES_4XX = re.compile(r'offramp_requests_total\{code="4\d\d",route="[^"]+"\}')
"""A client can make every one of them, but few are ever seen."""
MOVED = (
    "exits_total", "answer_duration_seconds_count", "stops_total", "inferences_total",
    "budget_slack_seconds_count", "budget_overrun_seconds_count", "deadline_misses_total",
    "shed_total", "cancelled_total", "segment_failures_total", "decode_duration_seconds_count",
)  # fmt: skip


def families(url: str) -> Iterator[Metric]:
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        if family.name.startswith("offramp_") and family.samples:
            yield family


def exported(family: Metric) -> tuple[str, set[str], str]:
    """Name, labels and kind, as the guide has them."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = {label for sample in family.samples for label in sample.labels}
    return name, labels - {"le"}, family.type


def test_the_guide_lists_what_is_exported_at_zero(digits_bundle: Bundle) -> None:
    guide = (ROOT / "docs/operating.md").read_text()
    listed = [(m[1], set(filter(None, (m[2] or "").split(","))), m[3]) for m in ROW.finditer(guide)]
    assert METER in listed
    listed.remove(METER)  # few hosts have one
    model, _ = gated(digits_bundle, exit=1)
    with live(model) as url:
        found = list(families(url))
    key = lambda row: row[0]  # noqa: E731
    assert sorted(map(exported, found), key=key) == sorted(listed, key=key)
    for family in found:
        if family.name not in LOADED:
            assert {sample.value for sample in family.samples} == {0}, family.name


def test_no_traffic_makes_a_series(digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    model, runner = gated(digits_bundle, exit=2)
    with live(model, workers=1, max_in_flight=64) as url, httpx.Client(base_url=url) as client:
        before = samples(url)
        with connect(url) as leaving:
            leaving.sendall(request("/v1/classify?threshold=1"))
            until(lambda: runner.num_waiting == 1)
        until(lambda: samples(url)[gone("segment")] == 1)
        runner.gate.set()
        send(client)
        monkeypatch.setattr(model.runner, "run_segment", lambda *_: 1 / 0)
        assert client.post("/v1/classify", content=PNG, headers=HEADERS).status_code == 500
        after = samples(url)
    new = after.keys() - before.keys()
    assert new
    assert {series for series in new if not CODES_4XX.fullmatch(series)} == set()
    for name in MOVED:
        assert any(s.startswith(f"offramp_{name}") and after[s] > before[s] for s in before), name


def send(client: httpx.Client) -> None:
    """Requests of every kind, as answers and as refusals."""
    pixels = {"name": "images", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64}
    for query, headers, code in (
        ("", HEADERS, 200),
        ("?operating_point=fast&latency_budget_ms=10000&energy_budget_mj=1e6", HEADERS, 200),
        ("?threshold=1&latency_budget_ms=0.001", HEADERS, 200),
        ("?threshold=1&energy_budget_mj=0.00001", HEADERS, 200),
        ("?threshold=1", STREAM, 200),
        ("?max_exit=1&trace=true", STREAM, 200),
        ("?latency_budget_ms=0.001&strict=true", HEADERS, 503),
        ("?model=x", HEADERS, 404),
        ("?threshold=2", HEADERS, 422),
        ("", {"content-type": "text/html"}, 415),
    ):
        said = client.post(f"/v1/classify{query}", content=PNG, headers=headers)
        assert said.status_code == code
    assert client.post("/v1/classify", content=PNG[:20], headers=HEADERS).status_code == 400
    for body, code in (({"inputs": [pixels]}, 200), ({"inputs": []}, 400)):
        assert client.post("/v2/models/digits/infer", json=body).status_code == code
    assert client.post("/v2/repository/index").status_code == 200
    for path, code in (
        ("/v1/models", 200), ("/v1/models/x", 404), ("/v1/classify", 405), ("/x", 404),
        ("/v2/models/digits/stats", 200), ("/healthz", 200), ("/readyz", 200), ("/docs", 200),
        ("/openapi.json", 200), ("/static-offline-docs/favicon.png", 200),
    ):  # fmt: skip
        assert client.get(path).status_code == code, path
