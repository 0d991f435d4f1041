"""Rivals answer what the bundle's graphs say, drop what is late, and refuse beyond their limit."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import get_args

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.contest import mosec, naive_exits, plain
from benchmarks.loading import Traffic, encode
from benchmarks.rivals.exits import Exits
from benchmarks.rivals.start import running
from benchmarks.rivals.uncut import Original
from load.outcomes import outcomes
from load.target import ROUTE
from models.bundle.bundle import Bundle, load_bundle
from models.bundle.confidence import Measure
from models.bundle.runner import SegmentRunner
from tests.benchmarks.conftest import Answer, one
from tests.bundles import copied, set_measure
from training.evaluation.evaluate import all_logits

pytestmark = pytest.mark.alone
BUDGET_MS = 60_000.0
LIMIT = 2


@pytest.fixture(scope="module")
def naive(bundle_path: Path) -> Iterator[str]:
    with running(naive_exits(bundle_path).with_budget(BUDGET_MS)) as server:
        yield server.url + ROUTE


@pytest.fixture(scope="module")
def limited(bundle_path: Path) -> Iterator[str]:
    """The plain server; each of its two processes takes one connection and refuses at two."""
    with running(plain(bundle_path).with_limit(LIMIT)) as server:
        yield server.url + ROUTE


def post(url: str, image: Path, sent: float) -> httpx.Response:
    headers = {"content-type": "image/png", "x-request-start": f"{sent:.6f}"}
    return httpx.post(url, content=image.read_bytes(), headers=headers, timeout=60)


def assert_same(said: httpx.Response, expected: Answer) -> None:
    answer = said.raise_for_status().json()
    assert (answer["index"], answer["exit"]) == expected[:2]
    assert answer["confidence"] == pytest.approx(expected[2], abs=1e-4)
    assert answer["label"] == str(expected[0])


def test_naive_exits_stop_where_the_server_does(
    naive: str, asked: Traffic, expected: list[Answer]
) -> None:
    assert len({exit for _, exit, _ in expected}) > 1
    for file, answer in zip(asked.files, expected, strict=True):
        assert_same(post(naive, file, time.time()), answer)


@pytest.mark.parametrize("measure", get_args(Measure))
def test_naive_exits_go_by_the_bundles_measure_of_confidence(
    asked: Traffic, bundle_path: Path, measure: Measure, tmp_path: Path
) -> None:
    copied(bundle_path, tmp_path, "digits", 1, partial(set_measure, measure=measure))
    bundle = load_bundle(tmp_path / "digits" / "1")
    naive = Exits(bundle)
    for image, file in zip(asked.images.images.numpy(), asked.files, strict=True):
        expected = one(bundle, [image[None]])
        said = naive.answer(naive.read(file.read_bytes()))
        assert (said["index"], said["exit"]) == expected[:2]
        assert said["confidence"] == pytest.approx(expected[2], abs=1e-5)


def test_what_is_late_is_dropped(naive: str, asked: Traffic) -> None:
    file = asked.files[0]
    assert post(naive, file, time.time() - BUDGET_MS / 1000 - 1).status_code == 503
    assert post(naive, file, time.time()).status_code == 200


def test_plain_is_the_last_exit(limited: str, asked: Traffic, digits_bundle: Bundle) -> None:
    manifest = digits_bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, digits_bundle.graphs)
    *_, last = all_logits(runner, asked.images.images.numpy(), lambda _: None)
    with httpx.Client(timeout=60) as client:
        for file, logits in zip(asked.files, last, strict=True):
            answer = client.post(limited, content=file.read_bytes()).raise_for_status().json()
            assert answer["index"] == logits.argmax()
            confidence = 1 / np.exp(logits - logits.max()).sum()
            assert answer["confidence"] == pytest.approx(float(confidence), abs=1e-4)


def test_a_limit_refuses(limited: str, asked: Traffic) -> None:
    shots = asked.load(limited, connections=8, seconds=0.5)
    found = outcomes(shots, 0.5, BUDGET_MS, asked.is_right)
    assert found.refused > 0
    assert found.failed == 0
    assert {shot.status for shot in shots} <= {200, 503}


def test_mosec_answers_in_batches(
    bundle_path: Path, asked: Traffic, expected: list[Answer]
) -> None:
    pytest.importorskip("mosec", reason="mosec is not installed")
    with running(mosec(bundle_path, 4)) as server, ThreadPoolExecutor(8) as pool:
        url = server.url + ROUTE
        said = list(pool.map(lambda file: post(url, file, time.time()), asked.files))
    for response, answer in zip(said, expected, strict=True):
        assert_same(response, answer)


def test_a_batch_is_answered_like_its_images(asked: Traffic, bundle_path: Path) -> None:
    network = Exits(load_bundle(bundle_path))
    rows = [network.read(file.read_bytes()) for file in asked.files]
    batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    for together, row in zip(network.answers(batch), rows, strict=True):
        alone = network.answer(row)
        assert (together["index"], together["exit"]) == (alone["index"], alone["exit"])
        assert together["confidence"] == pytest.approx(alone["confidence"], abs=1e-4)


def test_an_original_gets_its_own_normalisation(
    asked: Traffic, digits_bundle: Bundle, tmp_path: Path
) -> None:
    image = asked.images.images[0].numpy()
    weights = np.random.default_rng(0).normal(size=(image.size, 10)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        ],
        "original",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, *image.shape[:2]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(weights, "weights")],
    )
    path = tmp_path / "original.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    network = Original(digits_bundle, path, (0.5, 0, 0), (0.25, 1, 1))
    answer = network.answer(network.read(encode(image)))
    scores = ((image[..., 0].reshape(1, -1) / 255 - 0.5) / 0.25) @ weights
    assert answer["index"] == scores.argmax()
    assert answer["score"] == pytest.approx(float(scores.max()), rel=1e-4)
