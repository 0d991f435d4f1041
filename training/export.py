"""From a finished training run to a bundle."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.bundle.bundle import load_bundle, sha256
from models.bundle.confidence import Floats
from models.bundle.manifest import (
    CALIBRATION,
    COST,
    MANIFEST,
    MODEL_NAME,
    SCHEMA_VERSION,
    Calibration,
    CostProfile,
    File,
    Input,
    Manifest,
    Provenance,
    Record,
)
from models.bundle.profile import RUNS, measure
from models.bundle.runner import SegmentRunner
from models.nets.presets import build
from training import checkpoint, report
from training.augment import normalised
from training.calibrate import MAX_ACCURACY_DROP, calibrate
from training.checkpoint import Checkpoint
from training.data import LabelledImages, load_images, open_images
from training.evaluate import all_logits, evaluate
from training.graphs import ExportError, check_parity, export_graphs
from training.quantize import Graphs, check_accuracy, quantized
from training.run import BEST, SPLITS

PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")
PARITY_ROWS = 32
RANGE_ROWS = 500


def export(
    run: Path,
    name: str,
    version: int,
    zoo: Path,
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    *,
    int8: bool = False,
) -> Path:
    """Writes the best checkpoint of `run` as `zoo/name/version`, and returns that path.

    `max_accuracy_drop` is what the operating point `certified` may lose against the last exit.
    The bundle is built aside and renamed into place, so it exists whole or not at all. Raises
    ExportError where it exists already, its name cannot be a model's, a graph differs from
    torch, or 8 bits cost an exit too much accuracy.
    """
    if not re.fullmatch(MODEL_NAME, name):
        raise ExportError(f"{name!r} is no model name: it takes letters, digits, '.', '_' and '-'")
    target = zoo / name / str(version)
    if target.exists():
        raise ExportError(f"{target} exists; bundles are immutable, choose another version")
    saved = checkpoint.load(run / BEST)
    train = open_images(saved.config.data, "train", saved.config.image_size)
    test = load_images(saved.config.data, "test", saved.config.image_size)
    if not (run / SPLITS).is_file():
        raise ExportError(f"{run / SPLITS} is missing: which rows calibrate is not known")
    rows = np.load(run / SPLITS)["calibration"]
    if len(rows) < PARITY_ROWS:
        raise ExportError(f"{run} kept {len(rows)} rows for calibration; {PARITY_ROWS} are needed")
    calibration = train.take(rows)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=target.parent))
    try:
        fit = partial(calibrate, max_accuracy_drop=max_accuracy_drop)
        _write(aside, saved, name, version, calibration, test, fit, int8=int8)
        aside.chmod(0o755)
        os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside)
        raise
    return target


def _write(
    directory: Path,
    saved: Checkpoint,
    name: str,
    version: int,
    calibration_data: LabelledImages,
    test: LabelledImages,
    fit: Callable[..., Calibration],
    *,
    int8: bool,
) -> None:
    """Fills `directory`: graphs, calibration, cost, manifest, then the report on the test split."""
    graphs = checked_graphs(saved, calibration_data.images[:PARITY_ROWS])
    logits = logits_of(graphs, calibration_data, "calibrating")
    if int8:
        graphs = quantized(*graphs, calibration_data.images[:RANGE_ROWS].numpy())
        float_logits, logits = logits, logits_of(graphs, calibration_data, "calibrating int8")
        check_accuracy(float_logits, logits, calibration_data.labels.numpy())
    segments, heads, content = graphs
    runner = SegmentRunner(segments, heads, content)
    calibration = fit(logits, calibration_data.labels.numpy(), segments, heads)
    cost = profile_with_progress(runner)
    for file, graph in content.items():
        (directory / file).write_bytes(graph)
    height, width, channels = saved.image_shape
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        version=version,
        input=Input.model_validate(
            {"height": height, "width": width, "channels": channels, "resize": "crop"}
        ),
        labels=tuple(saved.labels),
        segments=tuple(segments),
        exit_heads=tuple(heads),
        calibration=_write_record(directory, CALIBRATION, calibration),
        cost=_write_record(directory, COST, cost),
        provenance=_provenance(saved, "int8" if int8 else "float32"),
    )
    _write_record(directory, MANIFEST, manifest)
    bundle = load_bundle(directory)
    logits = logits_with_progress(runner, test.images.numpy(), "testing")
    data = manifest.provenance.data
    report.write(evaluate(bundle, logits, test.labels.numpy(), data=data, split="test"), directory)


def checked_graphs(saved: Checkpoint, images: Tensor) -> Graphs:
    """Entries of segments and heads, and every graph by file; checked on `images`."""
    net = build(saved.config.net, saved.image_shape, len(saved.labels))
    net.load_state_dict(saved.weights)
    net.eval()
    mean, std = torch.tensor(saved.mean), torch.tensor(saved.std)
    exported = export_graphs(net, images, mean, std)
    segments, heads = ([graph.entry for graph in graphs] for graphs in exported)
    content = {graph.entry.file: graph.content for graphs in exported for graph in graphs}
    runner = SegmentRunner(segments, heads, content)
    with torch.no_grad():
        expected = net(normalised(images, mean, std))
    check_parity(expected, logits_with_progress(runner, images.numpy(), "checking parity"))
    return segments, heads, content


def logits_of(graphs: Graphs, data: LabelledImages, title: str) -> list[Floats]:
    """Logits of every exit, (rows, classes) each, of graphs that are no bundle yet."""
    return logits_with_progress(SegmentRunner(*graphs), data.images.numpy(), title)


def _provenance(saved: Checkpoint, precision: Literal["float32", "int8"]) -> Provenance:
    data = Path(saved.config.data).name
    return Provenance(
        git_commit=saved.git_commit,
        data=data,
        split="train, without its calibration and selection rows",
        seed=saved.config.seed,
        epochs=saved.epoch,
        config=saved.config.model_dump(mode="json") | {"data": data},
        packages={package: package_version(package) for package in PACKAGES},
        precision=precision,
    )


def _write_record(directory: Path, file: str, record: Record) -> File:
    content = (record.model_dump_json(indent=1) + "\n").encode()
    (directory / file).write_bytes(content)
    return File(file=file, sha256=sha256(content))


def logits_with_progress(
    runner: SegmentRunner, images: NDArray[np.uint8], title: str
) -> list[Floats]:
    """Logits of every exit, (rows, classes) each, under a progress bar."""
    with tqdm(total=len(images), desc=title, unit="row") as bar:
        return all_logits(runner, images, bar.update)


def profile_with_progress(runner: SegmentRunner) -> CostProfile:
    """This host's cost profile, under a progress bar."""
    with tqdm(total=RUNS, desc="profiling", unit="round") as bar:
        return measure(runner, progress=bar.update)
