"""The bundle of the exits that were chosen: graphs, calibration, cost, manifest, report."""

from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Literal

import numpy as np

from models.bundle.calibration import Calibration
from models.bundle.cost_profile import CostProfile
from models.bundle.image_input import ImageInput
from models.bundle.manifest import Provenance
from models.bundle.runner import SegmentRunner
from models.bundle.text_input import TextInput
from training.attaching.choose import Choice
from training.attaching.cut import Place, pieces
from training.attaching.order import Order
from training.attaching.passes import logits_of
from training.attaching.photos import Parts
from training.attaching.pooling import head_graph
from training.attaching.program import Program
from training.attaching.trial import Trial
from training.evaluation import report
from training.evaluation.evaluate import evaluate
from training.exporting.calibrate import calibrate
from training.exporting.export import PACKAGES, profile_with_progress
from training.exporting.lengths import at_mean_cost, mean_cost, shares_of
from training.exporting.quantize import Graphs
from training.exporting.writing import write_bundle
from training.origin import git_commit

Precision = Literal["float32", "int8"]


def chosen_graphs(cut_up: Program, trial: Trial, choice: Choice, end: Place) -> Graphs:
    """The network cut at the chosen places, with the heads that were trained there."""
    cuts = [trial.cuts[index] for index in choice.exits]
    segments, last = pieces(cut_up, cuts, end)
    heads = [
        head_graph(cut_up, trial.cuts[index], trial.heads[index].layers(), exit)
        for exit, index in enumerate(choice.exits, start=1)
    ]
    made = [*segments, *heads, last]
    content = {graph.entry.file: graph.content for graph in made}
    return [g.entry for g in segments], [g.entry for g in (*heads, last)], content


def write(
    directory: Path,
    order: Order,
    graphs: Graphs,
    precision: Precision,
    target: ImageInput | TextInput,
    labels: tuple[str, ...],
    parts: Parts,
    notes: Sequence[str],
) -> None:
    """Fills `directory`; calibration and report are measured on the graphs as they are written."""
    segments, heads, _ = graphs
    runner = SegmentRunner(*graphs)
    logits = logits_of(runner, parts.calibration, "calibrating")
    shares = shares_of(parts.calibration.order)
    calibration = calibrate(
        logits,
        parts.calibration.labels,
        mean_cost(segments, shares),
        mean_cost(heads, shares),
        lengths=parts.calibration.order if shares else None,
        max_disagreement=order.max_disagreement,
    )
    cost = profile_with_progress(runner, target.length_buckets)
    bundle = write_bundle(
        directory,
        graphs,
        calibration,
        cost,
        name=order.name,
        version=order.version,
        input=target,
        labels=labels,
        provenance=provenance(order, parts, precision),
    )
    tested = logits_of(runner, parts.test, "testing")
    results = evaluate(
        at_mean_cost(bundle, shares_of(parts.test.order)),
        tested,
        parts.test.labels,
        data=bundle.manifest.provenance.data,
        split="test",
    )
    words = [] if target.length_buckets else costs_in_words(calibration, cost)
    results = results.model_copy(update={"notes": (*notes, *words)})
    report.write(results, directory)


def provenance(order: Order, parts: Parts, precision: Precision) -> Provenance:
    return Provenance(
        git_commit=git_commit(),
        data=Path(order.data).name,
        split="train, without its calibration rows",
        seed=order.seed,
        epochs=order.recipe.epochs,
        config={
            "network": order.model.name,
            "network_sha256": sha256(order.model.read_bytes()).hexdigest(),
            "labels_seen": parts.photos.labels is not None,
            "training_images": len(parts.learning),
        },
        packages={package: package_version(package) for package in PACKAGES},
        precision=precision,
    )


def costs_in_words(calibration: Calibration, cost: CostProfile) -> list[str]:
    """What a request takes on one core of this host, all exits long and at `balanced`."""
    segments, heads = (
        1e3 * np.array([graph.median_s[0] for graph in graphs])
        for graphs in (cost.segments, cost.exit_heads)
    )
    point = calibration.operating_points["balanced"]
    consulted = np.isin(np.arange(1, len(heads) + 1), point.consulted)
    spent = np.cumsum(segments) + np.cumsum(np.where(consulted, heads, 0))
    mean = float(spent @ np.array(point.exit_shares))
    return [
        f"Cut into {len(segments)} segments it takes {segments.sum() + heads[-1]:.2f} ms to the "
        f"last exit, the heads on the way {heads[:-1].sum():.2f} ms more; a request at `balanced` "
        f"takes {mean:.2f} ms on average."
    ]
