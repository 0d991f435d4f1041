"""The shipped bundle with attached exits, served beside the other one, on real photos."""

import json
import os
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.process import ROOT
from models.bundle.bundle import load_bundle
from models.bundle.image import fit_image
from models.bundle.runner import SegmentRunner

NAME = "caltech101-efficientnet-lite0"
BUNDLE = ROOT / "models/zoo" / NAME / "1"
CALTECH101 = Path(os.environ.get("CALTECH101_DIR", ROOT / "../shared/data/caltech101"))
MAX_BYTES = 20_000_000


def test_its_report_keeps_the_promises() -> None:
    report = json.loads((BUNDLE / "report.json").read_text())
    last, balanced = report["exits"][-1], report["operating_points"]["balanced"]
    assert report["num_rows"] == 2893
    assert last["top1"] >= 0.94
    assert last["top1"] - balanced["accuracy"] <= 0.005
    assert balanced["mean_macs"] <= 0.55 * last["macs"]
    assert load_bundle(BUNDLE).calibration.judged_by == "last_exit"
    assert sum(path.stat().st_size for path in BUNDLE.iterdir()) < MAX_BYTES


def test_its_graphs_carry_no_notes_of_their_exporter() -> None:
    graphs = load_bundle(BUNDLE).graphs
    assert graphs
    assert not [file for file, content in graphs.items() if b"site-packages" in content]


def test_photos_get_the_answers_of_the_segments_run_by_hand(shipped: str) -> None:
    if not (CALTECH101 / "test").is_dir():
        pytest.skip(f"Caltech-101 is not at {CALTECH101}; CALTECH101_DIR names another place")
    bundle = load_bundle(BUNDLE)
    manifest = bundle.manifest
    files = sorted((CALTECH101 / "test").rglob("*.jpg"))[::700]
    images = np.stack([fit_image(Image.open(file), manifest.image_input) for file in files])
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    expected = runner.run([images])[-1].argmax(axis=1)
    said = [
        httpx.post(
            f"{shipped}/v1/classify",
            params={"model": NAME, "min_exit": str(manifest.num_exits)},
            content=file.read_bytes(),
            headers={"content-type": "image/jpeg"},
        ).json()
        for file in files
    ]
    assert [answer["model"] for answer in said] == [NAME] * len(files)
    assert [answer["index"] for answer in said] == expected.tolist()
