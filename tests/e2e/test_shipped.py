"""The shipped bundle, served over HTTP, on real CIFAR-100 test images."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import httpx
import numpy as np
import pytest

from benchmarks.budget_sweep import run_by_hand
from benchmarks.process import ROOT
from models.bundle.bundle import Bundle, load_bundle
from models.bundle.runner import SegmentRunner
from tests.e2e.test_serving import counters
from tests.images import encoded
from training.cli import evaluate
from training.data import LabelledImages, open_images
from training.evaluation.evaluate import all_logits
from training.exporting.calibrate import split_view
from training.exporting.operating_points import UNCONSULTED

BUNDLE = ROOT / "models/zoo/cifar100-msdnet/7"
CLASSIFY = "/v1/classify?model=cifar100-msdnet"
NUM_IMAGES = 500
ONE_ROW = 1.5e-4  # another processor may round a tie the other way
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(BUNDLE)


@pytest.fixture(scope="module")
def client(shipped: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shipped) as session:
        yield session


@pytest.fixture(scope="module")
def images(cifar100: Path) -> LabelledImages:
    test = open_images(str(cifar100), "test")
    num_rows = len(test.labels)
    return test.take(np.arange(0, num_rows, num_rows // NUM_IMAGES))


@pytest.fixture(scope="module")
def pngs(images: LabelledImages) -> list[bytes]:
    return [encoded(image) for image in images.images.numpy()]


@pytest.fixture(scope="module")
def last_labels(bundle: Bundle, images: LabelledImages) -> list[int]:
    """The last exit's labels, from the segments run by hand."""
    return run_by_hand(bundle, images)


def test_report_regenerates_from_the_committed_segments(cifar100: Path, tmp_path: Path) -> None:
    """What the committed report says; reports have since learned to say more."""
    evaluate(BUNDLE, str(cifar100), tmp_path)
    committed, again = (
        json.loads((directory / "report.json").read_bytes()) for directory in (BUNDLE, tmp_path)
    )
    assert again["num_rows"] == committed["num_rows"] == 10_000
    for one, other in zip(committed["exits"], again["exits"], strict=True):
        assert other["top1"] == pytest.approx(one["top1"], abs=ONE_ROW)
        assert other["top5"] == pytest.approx(one["top5"], abs=ONE_ROW)
    for name, point in committed["operating_points"].items():
        accuracy = again["operating_points"][name]["accuracy"]
        assert accuracy == pytest.approx(point["accuracy"], abs=ONE_ROW)
    last_accuracy = again["exits"][-1]["top1"]
    assert again["operating_points"]["balanced"]["accuracy"] >= last_accuracy - 0.005


def test_last_exit_equals_the_segments_run_by_hand(
    client: httpx.Client, pngs: list[bytes], last_labels: list[int]
) -> None:
    before = counters(client, "offramp_exits_total")
    said = [client.post(f"{CLASSIFY}&min_exit=7", content=p, headers=PNG).json() for p in pngs]
    assert [answer["index"] for answer in said] == last_labels
    sent = counters(client, "offramp_exits_total") - before
    assert sent == Counter({("7", "cifar100-msdnet"): NUM_IMAGES})


def test_balanced_stops_where_the_stop_rule_run_by_hand_does_and_costs_less(
    client: httpx.Client, bundle: Bundle, images: LabelledImages, pngs: list[bytes]
) -> None:
    """How good its answers are the report says, of all test images."""
    said = [
        client.post(f"{CLASSIFY}&operating_point=balanced", content=png, headers=PNG).json()
        for png in pngs
    ]
    manifest = bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    logits = all_logits(runner, images.images.numpy(), lambda _: None)
    temperatures = [exit.calibration_temperature for exit in bundle.calibration.exits]
    graphs, measure = (manifest.segments, manifest.exit_heads), bundle.calibration.confidence
    split = split_view(logits, temperatures, images.labels.numpy(), *graphs, measure)
    point = bundle.calibration.operating_points["balanced"]
    consulted = [exit in point.consulted for exit in range(1, manifest.num_exits)]
    stops, macs = split.walk(np.where(consulted, np.array(point.thresholds[:-1]), UNCONSULTED))
    assert [answer["exit"] for answer in said] == (stops + 1).tolist()
    assert [answer["cost"]["macs"] for answer in said] == macs.tolist()
    labels = [int(logits[stop][row].argmax()) for row, stop in enumerate(stops)]
    assert [answer["index"] for answer in said] == labels
    last_macs = sum(graph.macs for graph in manifest.segments) + manifest.exit_heads[-1].macs
    assert mean(answer["cost"]["macs"] for answer in said) <= 0.7 * last_macs


def test_more_budget_buys_deeper_exits(client: httpx.Client, pngs: list[bytes]) -> None:
    depths = [
        mean(
            client.post(
                f"{CLASSIFY}&threshold=1&latency_budget_ms={budget}", content=png, headers=PNG
            ).json()["exit"]
            for png in pngs[:50]
        )
        for budget in (0.1, 10_000)
    ]
    assert depths == [1, 7]


def test_readme_shows_the_real_answer(client: httpx.Client) -> None:
    text = (ROOT / "README.md").read_text()
    words, _ = map(shlex.split, re.findall(r"^curl (.*?)\n```", text, re.MULTILINE | re.DOTALL))
    _, image, _, header, url = (word for word in words if word.strip())
    kind = dict([header.lower().split(": ")])
    content = (ROOT / image.removeprefix("@")).read_bytes()
    # a busy host may not keep the budget shown
    url = url.removeprefix("127.0.0.1:8000").replace(
        "latency_budget_ms=20", "latency_budget_ms=1000"
    )
    answer = client.post(url, content=content, headers=kind).json()
    for field in ("label", "index", "exit", "num_exits", "stop_reason"):
        assert f'"{field}": {answer[field]!r}'.replace("'", '"') in text
    assert f'"confidence": {answer["confidence"]:.4f}'[:-1] in text
