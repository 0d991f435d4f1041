"""Real servers that keep answers say what those without say, and never anything else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from benchmarks.process import free_port
from models.bundle.bundle import Bundle, load_bundle
from server import caching
from server.engine.model import ServedModel
from server.grpc import open_inference_pb2 as pb
from server.grpc.methods import STREAM, route_of
from tests.bundles import answer_always, copied
from tests.e2e.v2 import binary, request, tensor
from tests.images import encoded
from tests.server.conftest import made_profile, served
from tests.server.engines import IMAGES
from tests.server.grpc.test_calls import message
from tests.server.http.test_departure import gated
from tests.server.live import live, samples, until
from tests.server.v1.test_streaming import streamed

FILES = [encoded(image) for image in IMAGES[:4]]
PNG = {"content-type": "image/png"}
INFER = "/v2/models/digits/infer"
KEPT = {"max_cached_bytes": 100_000}
WISHES: list[dict[str, Any]] = [
    *({"threshold": threshold} for threshold in (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99, 1.0)),
    *({"threshold": 1.0, "max_exit": exit} for exit in (1, 2)),
    {"threshold": 0.5, "min_exit": 2},
    *({"operating_point": name} for name in ("fast", "balanced", "accurate")),
    {"operating_point": "accurate", "max_exit": 1},
]
SAME = ("label", "index", "confidence", "top_k", "exit", "num_exits", "stop_reason", "trace")


def asked(url: str, content: bytes = FILES[0], **parameters: object) -> dict[str, Any]:
    query = {name: str(value) for name, value in parameters.items()}
    said = httpx.post(f"{url}/v1/classify", params=query, content=content, headers=PNG)
    assert said.status_code == 200, said.text
    answer: dict[str, Any] = said.json()
    return answer


def same(said: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the time that an answer took."""
    trace = [{**entry, "at_ms": None} for entry in said.get("trace", ())]
    return {name: said.get(name) for name in SAME} | {"trace": trace}


def lookups(url: str) -> tuple[float, float]:
    """Hits and misses."""
    said = samples(url)
    hits, misses = (
        said[f'offramp_cache_lookups_total{{model="digits",result="{result}"}}']
        for result in ("hit", "miss")
    )
    return hits, misses


@pytest.fixture(scope="module")
def fresh(digits_bundle: Bundle) -> Iterator[str]:
    """A server that keeps no answers."""
    with live(served(digits_bundle, made_profile(0.00025, 0.00025))) as url:
        yield url


def test_answers_are_those_of_a_server_that_keeps_none(
    fresh: str, short_model: ServedModel
) -> None:
    with live(short_model, **KEPT) as url:
        for wishes in (WISHES, WISHES[::-1]):
            for content in FILES:
                for wish in wishes:
                    kept = asked(url, content, trace=True, top_k=10, **wish)
                    assert same(kept) == same(asked(fresh, content, trace=True, top_k=10, **wish))
        hits, misses = lookups(url)
        assert hits + misses == 2 * len(FILES) * len(WISHES)
        assert hits > misses, "at the latest the second time"
        counted = samples(url)
        assert 0 < counted["offramp_cache_bytes"] <= KEPT["max_cached_bytes"]
        exits = sum(v for k, v in counted.items() if k.startswith("offramp_exits_total"))
        assert exits == hits + misses
    assert "cached" not in asked(fresh)
    assert lookups(fresh) == (0, 0)


def test_a_deeper_answer_serves_a_shallower_wish_and_never_the_reverse(
    short_model: ServedModel,
) -> None:
    with live(short_model, **KEPT) as url:
        said = [asked(url, threshold=1, max_exit=exit) for exit in (1, 2, 1, 3, 2, 1)]
        assert [each["exit"] for each in said] == [1, 2, 1, 3, 2, 1]
        assert [each["cached"] for each in said] == [False, False, True, False, True, True]
        assert asked(url, FILES[1], threshold=1)["cached"] is False
        assert said[-1]["cost"] | {"total_ms": 0} == {
            "total_ms": 0, "queue_ms": 0, "compute_ms": 0, "energy_mj": 0, "macs": 0,
            "energy_source": said[0]["cost"]["energy_source"],
        }  # fmt: skip


def test_a_budget_does_not_cut_a_kept_answer_short(short_model: ServedModel) -> None:
    with live(short_model, **KEPT) as url:
        short = asked(url, threshold=1, energy_budget_mj=1e-6)
        assert (short["exit"], short["stop_reason"]) == (1, "energy")
        deep = asked(url, threshold=1)
        assert (deep["exit"], deep["cached"]) == (3, False)
        again = asked(
            url, threshold=1, energy_budget_mj=1e-6, latency_budget_ms=60_000, strict=True
        )
        assert (again["exit"], again["stop_reason"], again["cached"]) == (3, "final", True)
        assert again["budget"]["met"]
        assert not asked(url, threshold=1, latency_budget_ms=1e-6)["budget"]["met"]


def test_requests_of_several_rows(short_model: ServedModel) -> None:
    def asked_together(*contents: bytes) -> list[bool]:
        files = [("image", content) for content in contents]
        said = httpx.post(f"{url}/v1/classify?threshold=1", files=files).json()["results"]
        return [each["cached"] for each in said]

    with live(short_model, **KEPT) as url:
        assert asked_together(*FILES[:2]) == [False, False]
        assert asked(url, FILES[1], threshold=1)["cached"] is True
        assert asked_together(*FILES[1:3]) == [False, False], "one of them has to run"
        assert asked_together(FILES[2], FILES[0]) == [True, True]
        assert lookups(url) == (3, 4)
        assert httpx.post(f"{url}/v1/classify", content=b"none", headers=PNG).status_code == 400


@pytest.mark.parametrize("small_bytes", [caching.SMALL_BYTES, 0])
def test_streams_with_images_that_are_digested_here_or_on_a_thread(
    fresh: str, short_model: ServedModel, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    monkeypatch.setattr(caching, "SMALL_BYTES", small_bytes)

    def timeless(events: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        *exits, (name, final) = events
        assert name == "final"
        return [(kind, {**said, "at_ms": None}) for kind, said in exits] + [(name, same(final))]

    with live(short_model, **KEPT) as url:
        query = "threshold=1&top_k=3&trace=true"
        first, second = (streamed(url, query, content=FILES[0]) for _ in range(2))
        assert [events[-1][1]["cached"] for events in (first, second)] == [False, True]
        plain = streamed(fresh, query, content=FILES[0])
        assert timeless(first) == timeless(second) == timeless(plain)


def test_pixels_and_files_and_both_protocols(short_model: ServedModel) -> None:
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    with live(short_model, **KEPT) as url, httpx.Client(base_url=url) as client:
        body, headers = binary(pixels, parameters={"threshold": 1.0})
        first = client.post(INFER, content=body, headers=headers)
        listed = client.post(INFER, json=request(pixels, parameters={"threshold": 1.0}))
        assert b'"cached":false' in first.content
        assert listed.json()["parameters"]["cached"] is True
        # a file that has the bytes of those pixels is another input: it is none
        file = tensor(pixels[:, :1, :1, 0], datatype="BYTES", shape=[1], data=["A" * 84 + "AA=="])
        assert client.post(INFER, json={"inputs": [file]}).status_code == 400
        whole = encoded(IMAGES[0])
        assert asked(url, whole)["cached"] is False


def test_grpc(short_model: ServedModel) -> None:
    port = free_port()
    with (
        live(short_model, grpc_port=port, **KEPT) as url,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        infer: Any = channel.unary_unary(route_of("ModelInfer"))
        streaming: Any = channel.stream_stream(route_of(STREAM))
        first, second = (
            pb.ModelInferResponse.FromString(infer(message(threshold=1.0))) for _ in range(2)
        )
        assert [said.parameters["cached"].bool_param for said in (first, second)] == [False, True]
        assert first.raw_output_contents == second.raw_output_contents
        *exits, final = (
            pb.ModelStreamInferResponse.FromString(said).infer_response
            for said in streaming(iter([message(threshold=1.0)]))
        )
        assert len(exits) == 3
        assert final.raw_output_contents == first.raw_output_contents
        assert lookups(url) == (2, 1)


def test_a_model_that_is_unloaded_leaves_nothing(digits_bundle: Bundle) -> None:
    zoo = digits_bundle.path.parents[1]
    model, runner = gated(digits_bundle, 2)
    with live(model, zoo=zoo, profile_s=0.2, **KEPT) as url, httpx.Client(base_url=url) as client:
        runner.gate.set()
        asked(url, threshold=1)
        assert samples(url)["offramp_cache_bytes"] > 0
        runner.gate.clear()
        with waiting(url, FILES[1]):
            until(lambda: runner.num_waiting == 2)
            assert client.post("/v2/repository/models/digits/unload").is_success
            assert samples(url)["offramp_cache_bytes"] == 0
            runner.gate.set()
        assert samples(url)["offramp_cache_bytes"] == 0, "its model was gone when it was answered"
        client.timeout = 60
        assert client.post("/v2/repository/models/digits/load").is_success
        assert asked(url, threshold=1)["cached"] is False
        assert asked(url, threshold=1)["cached"] is True


def test_a_version_that_is_replaced_in_place_leaves_nothing(
    digits_bundle: Bundle, tmp_path: Path
) -> None:
    def replace(index: int) -> None:
        copied(digits_bundle.path, zoo, "digits", 1, partial(answer_always, index=index))
        assert client.post("/v2/repository/models/digits/load").is_success

    zoo = tmp_path / "zoo"
    copied(digits_bundle.path, zoo, "digits", 1)
    bundle = load_bundle(zoo / "digits" / "1")
    model, runner = gated(bundle, 2)
    with live(model, zoo=zoo, profile_s=0.2, **KEPT) as url, httpx.Client(base_url=url) as client:
        client.timeout = 60
        runner.gate.set()
        old = asked(url, threshold=1)
        first, second = [index for index in range(10) if index != old["index"]][:2]
        runner.gate.clear()
        with waiting(url, FILES[1]):
            until(lambda: runner.num_waiting == 2)
            replace(first)
            assert samples(url)["offramp_cache_bytes"] == 0
            runner.gate.set()
        assert samples(url)["offramp_cache_bytes"] == 0, "the old model answered"
        for content in FILES[:2]:
            said = [asked(url, content, threshold=1) for _ in range(2)]
            assert [(each["index"], each["cached"]) for each in said] == [
                (first, False), (first, True),
            ]  # fmt: skip
        assert asked(url, threshold=1)["version"] == old["version"] == 1
        replace(second)
        said = [asked(url, threshold=1) for _ in range(2)]
        assert [(each["index"], each["cached"]) for each in said] == [
            (second, False), (second, True),
        ]  # fmt: skip


@contextmanager
def waiting(url: str, content: bytes) -> Iterator[None]:
    """A request that is answered by the end."""
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(asked, url, content, threshold=1)
        yield
        assert said.result()["cached"] is False
