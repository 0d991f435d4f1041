"""The Open Inference Protocol on a real server: compression, limits and counts."""

import json
import re
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.e2e import v2
from tests.e2e.conftest import ByHand
from tests.e2e.test_serving import counters
from tests.e2e.v2.conftest import EVERY_EXIT, IMAGE, INFER, MAX_BODY_BYTES, MAX_IMAGES, refused
from tests.server.http.test_compression import COMPRESS


@pytest.mark.parametrize("encoding", list(COMPRESS))
def test_compression_both_ways(client: httpx.Client, by_hand: ByHand, encoding: str) -> None:  # C28
    images = by_hand.images[:8]
    plain = client.post(
        INFER,
        json=v2.request(images, parameters=EVERY_EXIT),
        headers={"accept-encoding": "identity"},
    )
    assert "content-encoding" not in plain.headers
    body, headers = v2.binary(images, parameters=EVERY_EXIT)
    headers |= {"content-encoding": encoding, "accept-encoding": encoding}
    said = client.post(INFER, content=COMPRESS[encoding](body), headers=headers)
    assert said.headers["content-encoding"] == encoding
    assert said.headers["vary"] == "Accept-Encoding"
    assert v2.outputs(said) == v2.outputs(plain)


@pytest.mark.parametrize("encoding", list(COMPRESS))
def test_bad_compression(client: httpx.Client, encoding: str) -> None:  # C28
    headers = {"content-encoding": encoding}
    bomb = COMPRESS[encoding](bytes(20_000_000))
    assert len(bomb) < MAX_BODY_BYTES
    refused(client.post(INFER, content=bomb, headers=headers), 413)
    whole = COMPRESS[encoding](json.dumps(v2.request(IMAGE)).encode())
    for damaged in (b"", b"rubbish", whole[:-1], whole + b"x"):
        refused(client.post(INFER, content=damaged, headers=headers))


def test_unknown_encoding(client: httpx.Client) -> None:  # C28
    for encoding in ("br", "gzip, gzip", "rubbish"):
        headers = {"content-encoding": encoding}
        refused(client.post(INFER, content=b"{}", headers=headers), 415)


def test_body_too_large(client: httpx.Client) -> None:
    refused(client.post(INFER, content=b"0" * (MAX_BODY_BYTES + 1)), 413)
    chunks = (b"0" * 1000 for _ in range(MAX_BODY_BYTES // 1000 + 1))
    refused(client.post(INFER, content=chunks), 413)


def test_largest_batch_is_taken(client: httpx.Client, by_hand: ByHand) -> None:  # C29
    images = by_hand.images[:MAX_IMAGES]
    said = v2.outputs(client.post(INFER, json=v2.request(images)))
    assert len(said["exit"]) == MAX_IMAGES


def test_metrics_and_statistics_count_what_was_sent(
    client: httpx.Client, by_hand: ByHand
) -> None:  # C33
    path = "/v2/models/digits/versions/1"

    def count() -> dict[str, Any]:
        (stats,) = client.get(f"{path}/stats").json()["model_stats"]
        assert (stats["name"], stats["version"]) == ("digits", "1")
        success: dict[str, Any] = stats
        return success

    names = ("offramp_exits_total", "offramp_stops_total", "offramp_inferences_total")
    before, metrics = count(), {name: counters(client, name) for name in names}
    sent = {name: Counter[tuple[str, ...]]() for name in names}
    for rows in (1, 4, 7):
        asked = v2.request(by_hand.images[:rows], parameters=EVERY_EXIT | {"max_exit": 2})
        said = v2.outputs(client.post(f"{path}/infer", json=asked))
        for exit, reason in zip(said["exit"], said["stop_reason"], strict=True):
            sent["offramp_exits_total"][str(exit), "digits"] += 1
            sent["offramp_stops_total"]["digits", reason] += 1
            sent["offramp_inferences_total"]["digits", "answered"] += 1
    refused(client.post(f"{path}/infer", json={}))
    after = count()
    assert {name: counters(client, name) - metrics[name] for name in names} == sent
    assert after["inference_count"] - before["inference_count"] == 12
    assert after["inference_stats"]["success"]["count"] == (
        before["inference_stats"]["success"]["count"] + 3
    )
    assert after["inference_stats"]["fail"] == {"count": 0, "ns": 0}
    assert after["last_inference"] > 1_600_000_000_000
    runs = {b["batch_size"]: b["compute_infer"]["count"] for b in after["batch_stats"]}
    earlier = {b["batch_size"]: b["compute_infer"]["count"] for b in before["batch_stats"]}
    assert after["execution_count"] == sum(runs.values())
    rows_run = sum(size * (runs[size] - earlier.get(size, 0)) for size in runs)
    assert rows_run == 2 * 12, "every image ran through two segments"


def test_statistics_of_every_model(client: httpx.Client) -> None:
    listed = [("digits", "1"), ("digits", "2")]
    for path in ("/v2/models/stats", "/v2/models/digits/stats"):
        stats = client.get(path).json()["model_stats"]
        assert [(entry["name"], entry["version"]) for entry in stats] == listed


def test_routes_are_counted_by_their_templates(client: httpx.Client) -> None:
    client.get("/v2/models/digits/versions/1/ready")
    client.get("/v2/models/unheard-of/ready")
    routes = {route for _, route in counters(client, "offramp_requests_total")}
    assert "/v2/models/{name}/versions/{version}/ready" in routes
    assert not any("unheard" in route for route in routes)


def test_openapi_documents_the_protocol(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    paths = [path for path in document["paths"] if path.startswith("/v2")]
    assert len(paths) == 17
    for path in paths:
        for operation in document["paths"][path].values():
            assert set(operation["responses"]) == {"200", "4XX", "5XX"}
    infer = document["paths"]["/v2/models/{name}/infer"]["post"]
    for body in (infer["requestBody"], infer["responses"]["200"]):
        assert set(body["content"]) == {"application/json", "application/octet-stream"}
    for reference in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(infer))):
        target = document
        for key in reference.split("/"):
            target = target[key]
