"""From a finished training run to a bundle."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from models.bundle.calibration import Calibration
from models.bundle.confidence import Floats
from models.bundle.cost_profile import CostProfile
from models.bundle.manifest import Provenance
from models.bundle.profile import RUNS, measure
from models.bundle.runner import Arrays, SegmentRunner
from training import checkpoint, tokenizing
from training.checkpoint import Checkpoint
from training.data.rows import Index, Labels
from training.data.sources import Inputs, Source
from training.evaluation import report
from training.evaluation.evaluate import evaluate, logits_of_batches
from training.exporting.calibrate import MAX_ACCURACY_DROP, calibrate
from training.exporting.graphs import (
    ExportError,
    check_logits,
    export_graphs,
)
from training.exporting.lengths import at_mean_cost, bucket_shares, lengths_of, mean_cost
from training.exporting.quantize import Graphs, check_accuracy, quantized, range_rows
from training.exporting.writing import built_aside, free_place, write_bundle
from training.fronts import front_of
from training.progress import Progress
from training.run import BEST, LAST
from training.run_data import RunData, open_data

PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")
PARITY_ROWS = 32
PATHS = ("data", "net", "start_from", "teacher", "tokenizer")
"""Settings that may be paths. A bundle goes to others, so it keeps their last parts alone."""


def export(
    run: Path,
    name: str,
    version: int,
    zoo: Path,
    max_accuracy_drop: float = MAX_ACCURACY_DROP,
    *,
    int8: bool = False,
    skip_undecodable: bool = False,
) -> Path:
    """Writes the best checkpoint of `run` as `zoo/name/version`, and returns that path.

    `max_accuracy_drop` is what the operating point `certified` may lose against the last exit.
    `skip_undecodable` leaves out images that cannot be decoded, whatever the run was told.
    The bundle is built aside and renamed into place, so it exists whole or not at all. Raises
    ExportError where it exists already, its name cannot be a model's, a graph differs from
    torch, or 8 bits cost an exit too much accuracy.
    """
    target = free_place(zoo, name, version)
    saved = checkpoint.load(run / BEST)
    config = saved.config
    last = checkpoint.load(run / LAST).epoch if (run / LAST).is_file() else config.epochs
    if last < config.epochs:
        print(
            f"{run} has trained for {last} of its {config.epochs} epochs; this is the best so far"
        )
    if skip_undecodable:
        config = config.model_copy(update={"undecodable": "skip"})
    data = open_data(config, run, is_new=False)
    if int8 and saved.input.kind != "image":
        raise ExportError("--int8 is for images")
    num_rows = len(data.splits.calibration)
    if num_rows < PARITY_ROWS:
        raise ExportError(f"{run} kept {num_rows} rows for calibration; {PARITY_ROWS} are needed")
    fit = partial(calibrate, max_accuracy_drop=max_accuracy_drop)
    with built_aside(target) as directory:
        _write(directory, saved, name, version, data, fit, int8=int8)
    return target


def _write(
    directory: Path,
    saved: Checkpoint,
    name: str,
    version: int,
    data: RunData,
    fit: Callable[..., Calibration],
    *,
    int8: bool,
) -> None:
    """Fills `directory`: graphs, calibration, cost, manifest, then the report on the test split."""
    rows = data.splits.calibration
    graphs = checked_graphs(saved, data.train.take(rows[:PARITY_ROWS]).inputs)
    logits, labels = logits_of(graphs, data.train, rows, "calibrating")
    if int8:
        (images,) = data.train.take(range_rows(data.splits.train)).inputs
        graphs = quantized(*graphs, images.numpy())
        float_logits = logits
        logits, labels = logits_of(graphs, data.train, rows, "calibrating int8")
        check_accuracy(float_logits, logits, labels)
    segments, heads, _ = graphs
    runner = SegmentRunner(*graphs)
    shares = bucket_shares(data.train, rows)
    costs = mean_cost(segments, shares), mean_cost(heads, shares)
    calibration = fit(logits, labels, *costs, lengths=lengths_of(data.train, rows))
    cost = profile_with_progress(runner, saved.input.length_buckets)
    if saved.tokenizer:
        (directory / tokenizing.FILE).write_text(saved.tokenizer)
    bundle = write_bundle(
        directory,
        graphs,
        calibration,
        cost,
        name=name,
        version=version,
        input=saved.input,
        labels=saved.labels,
        provenance=provenance(saved, "int8" if int8 else "float32"),
    )
    tested = np.arange(len(data.test.labels))
    logits, labels = logits_of(graphs, data.test, tested, "testing")
    source = bundle.manifest.provenance.data
    bundle = at_mean_cost(bundle, bucket_shares(data.test, tested))
    report.write(evaluate(bundle, logits, labels, data=source, split="test"), directory)


def checked_graphs(saved: Checkpoint, inputs: Inputs) -> Graphs:
    """Entries of segments and heads, and every graph by file; checked on `inputs`."""
    net = saved.network()
    front = front_of(saved.input, torch.tensor(saved.mean), torch.tensor(saved.std))
    graphs = export_graphs(net, inputs, front)
    with torch.no_grad():
        expected = net(*front.prepared(inputs))
    check_logits(SegmentRunner(*graphs), inputs, expected)
    return graphs


def logits_of(
    graphs: Graphs, source: Source, rows: Index, title: str
) -> tuple[list[Floats], Labels]:
    """Logits of every exit, (rows, classes) each, of graphs that may be no bundle yet; labels."""
    runner, used = SegmentRunner(*graphs), [rows[:0]]

    def batches() -> Iterator[Arrays]:
        for index, part in source.inputs_of(rows):
            used.append(index)
            yield [x.numpy() for x in part]

    with Progress(len(rows), title, "row") as bar:
        logits = logits_of_batches(runner, batches(), bar.update)
    return logits, source.rows.labels[np.concatenate(used)]


def provenance(saved: Checkpoint, precision: Literal["float32", "int8"]) -> Provenance:
    """Where a bundle comes from: the run's settings, seed, epochs and code."""
    config = saved.config.model_dump(mode="json")
    config |= {key: without_directories(config[key]) for key in PATHS if config[key] is not None}
    return Provenance(
        git_commit=saved.git_commit,
        data=config["data"],
        split="train, without its calibration and selection rows",
        seed=saved.config.seed,
        epochs=saved.epoch,
        config=config,
        packages={package: package_version(package) for package in PACKAGES},
        precision=precision,
    )


def without_directories(path: str) -> str:
    """The last part of a path, and a network's kind or function: "transformers:DIR/bert@1,2"."""
    return re.sub(r"[^:]*/", "", path.rstrip("/"))


def profile_with_progress(runner: SegmentRunner, lengths: tuple[int, ...] = ()) -> CostProfile:
    """This host's cost profile, and how far it is."""
    with Progress(RUNS, "profiling", "round") as bar:
        return measure(runner, progress=bar.update, lengths=lengths)
