"""Traces, as an OpenTelemetry collector receives them from a real server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.conftest import Serve
from tests.e2e.conftest import ByHand
from tests.e2e.test_start import refusal

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"content-type": "image/png", "traceparent": f"00-{TRACE}-{PARENT}-01"}


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    """Where spans can be sent, and those that were."""
    spans: list[Span] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", spans
        finally:
            server.shutdown()


def children_of(parent: Span, spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.parent_span_id == parent.span_id]


def test_a_request_is_a_span_with_a_child_for_each_segment(
    digits_zoo: Path, serve: Serve, by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as (endpoint, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with serve(digits_zoo, traces=True) as server, httpx.Client(base_url=server.url) as client:
            path, png = "/v1/classify?threshold=1&max_exit=2", by_hand.pngs[0]
            assert client.post(path, content=png, headers=HEADERS).json()["exit"] == 2
            infer = "/v2/models/digits/infer"
            tensor = {"name": "input", "shape": [1, 8, 8, 1], "datatype": "UINT8"}
            inputs = [tensor | {"data": by_hand.images[0].ravel().tolist()}]
            metadata = client.get("/v2/models/digits").json()
            inputs[0]["name"] = metadata["inputs"][0]["name"]
            asked = {"inputs": inputs, "parameters": {"threshold": 1}}
            assert client.post(infer, json=asked).status_code == 200
            assert client.get("/metrics").status_code == 200
        # the server has ended, and sent what it had left
    named = {span.name: span for span in spans}
    request = named["POST /v1/classify"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {a.key: a.value for a in request.attributes}
    assert attributes["http.route"].string_value == "/v1/classify"
    assert attributes["http.response.status_code"].int_value == 200
    children = children_of(request, spans)
    assert [span.name for span in children] == ["segment 1", "segment 2"]
    for child, follower in zip(children, [*children[1:], request], strict=True):
        assert request.start_time_unix_nano < child.start_time_unix_nano
        assert child.start_time_unix_nano < child.end_time_unix_nano
        assert child.end_time_unix_nano < follower.end_time_unix_nano
    inferred = children_of(named["POST /v2/models/{name}/infer"], spans)
    assert [span.name for span in inferred] == ["segment 1", "segment 2", "segment 3"]
    assert not any("/metrics" in span.name or "/readyz" in span.name for span in spans)


def test_nothing_is_sent_unless_traces_are_asked_for(
    digits_zoo: Path, serve: Serve, by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as (endpoint, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with serve(digits_zoo, profile_s=0.1) as server:
            said = httpx.post(f"{server.url}/v1/classify", content=by_hand.pngs[0], headers=HEADERS)
            assert said.status_code == 200
    assert spans == []


def test_traces_without_a_place_for_them_stop_the_start() -> None:
    said = refusal(OFFRAMP_TRACES="true")
    assert "OFFRAMP_TRACES: " in said
    assert "OTEL_EXPORTER_OTLP_ENDPOINT must say where traces are taken" in said
