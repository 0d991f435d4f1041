"""Bundles made from another: under a different name, with other weights or other thresholds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from models.bundle.bundle import sha256
from models.bundle.confidence import Measure

Change = Callable[[Path], object]


def copied(bundle: Path, zoo: Path, name: str, version: int, change: Change | None = None) -> None:
    """The bundle, changed, as NAME/VERSION: renamed into place, or into that of one there is."""
    place = zoo / name / str(version)
    aside, old = (place.with_name(f".{kind}-{version}") for kind in ("new", "old"))
    shutil.copytree(bundle, aside)
    edit(aside / "manifest.json", lambda manifest: manifest.update(name=name, version=version))
    if change is not None:
        change(aside)
    if place.exists():
        place.rename(old)
    aside.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def answer_always(bundle: Path, index: int) -> None:
    """Changes the weights: every exit is sure of this one label."""
    for head in sorted(bundle.glob("exit_*.onnx")):
        model = onnx.load(head)
        (bias,) = [i for i in model.graph.initializer if i.name.endswith("4.bias")]
        values = np.zeros(bias.dims, np.float32)
        values[index] = 1e6
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))
        head.write_bytes(model.SerializeToString())
    sign(bundle)


def set_threshold(bundle: Path, threshold: float) -> None:
    """Changes the operating point `balanced`: every exit consulted, the same threshold at each."""

    def change(calibration: dict[str, Any]) -> None:
        point = calibration["operating_points"]["balanced"]
        exits = len(point["thresholds"])
        point["thresholds"] = [*[threshold] * (exits - 1), None]
        point["consulted"] = list(range(1, exits + 1))

    edit(bundle / "calibration.json", change)
    sign(bundle)


def set_measure(bundle: Path, measure: Measure) -> None:
    """Changes what confidence is, and leaves the thresholds."""
    edit(bundle / "calibration.json", lambda calibration: calibration.update(confidence=measure))
    sign(bundle)


def sign(bundle: Path) -> None:
    """Makes the manifest's hashes those of the files."""

    def change(manifest: dict[str, Any]) -> None:
        entries = [*manifest["segments"], *manifest["exit_heads"], manifest["calibration"]]
        for entry in entries:
            entry["sha256"] = sha256((bundle / entry["file"]).read_bytes())

    edit(bundle / "manifest.json", change)
