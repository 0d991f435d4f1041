"""Which confidence ranks best: failure AUROC, and the MACs it takes for the same accuracy.

    python -m benchmarks.confidence_measures models/zoo/cifar100-msdnet/7 DATA

On images that the network never learned from: what calibrated the bundle, and the test split. They
are cut into halves at random, several times; one half fits calibration temperatures, learned
confidences and thresholds, the other is judged, then the other way round. Every measure is replaced
by its rank on the fitting half, so that all are searched on equally fine grids.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.confidence import Floats, calibrated_probabilities, confidence
from models.bundle.runner import SegmentRunner
from training.config import TrainConfig
from training.data import load_images, open_images, split_rows
from training.evaluation.evaluate import all_logits
from training.evaluation.measures import Labels, failure_auroc
from training.exporting.calibrate import fit_temperature
from training.exporting.operating_points import (
    SplitView,
    chances_of_being_right,
    tuned_candidates,
)
from training.progress import Progress

DROPS = (0.005, 0.01, 0.02, 0.03)
"""Accuracy below the last exit's at which MACs are compared."""
NUM_TOP = 5  # probabilities that a learned confidence sees

Values = NDArray[np.float64]
Measure = Callable[[Floats, Floats, NDArray[np.bool_]], Values]
"""Confidences of the rows to judge, from the probabilities of the rows to fit, of those to judge,
and whether the answers of the rows to fit are right."""


class HeldOut(NamedTuple):
    """Logits of every exit, (rows, classes) each, and labels."""

    logits: list[Floats]
    labels: Labels

    def take(self, rows: NDArray[np.int64]) -> "HeldOut":
        return HeldOut([z[rows] for z in self.logits], self.labels[rows])


class Judged(NamedTuple):
    """Failure AUROC of each exit, and MACs at each of DROPS as shares of the last exit's."""

    auroc: Values
    macs: Values


def certainty(probabilities: Floats) -> Values:
    """One less the entropy, as a share of the largest there can be."""
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
    return np.asarray(1 - entropy / np.log(probabilities.shape[1]), dtype=np.float64)


def fixed(measure: Callable[[Floats], NDArray[np.floating]]) -> Measure:
    """A measure that is not learned."""
    return lambda _, judge, __: np.asarray(measure(judge), dtype=np.float64)


def learned(with_class: bool) -> Measure:
    """The chance of being right by logistic regression, on what the exit itself says."""

    def measure(fit: Floats, judge: Floats, is_right: NDArray[np.bool_]) -> Values:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(signs(fit, with_class), is_right)
        chances: Values = model.predict_proba(signs(judge, with_class))[:, 1]
        return chances

    return measure


def signs(probabilities: Floats, with_class: bool) -> Values:
    """The log-odds of the largest probabilities, margin and entropy, and maybe the answer."""
    top = np.clip(np.sort(probabilities, axis=1)[:, -NUM_TOP:], 1e-6, 1 - 1e-6).astype(np.float64)
    parts = [np.log(top / (1 - top)), confidence(probabilities, "margin")[:, None]]
    parts.append(certainty(probabilities)[:, None])
    if with_class:
        parts.append(np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)])
    return np.concatenate(parts, axis=1)


MEASURES: dict[str, Measure] = {
    "largest probability": fixed(partial(confidence, measure="max_probability")),
    "margin": fixed(partial(confidence, measure="margin")),
    "entropy": fixed(certainty),
    "learned": learned(with_class=False),
    "learned, with the answer": learned(with_class=True),
}


def ranks(fit: Values, judge: Values) -> Values:
    """The share of the fitting rows' values that each value is above."""
    return np.searchsorted(np.sort(fit), judge) / len(fit)


def judge(bundle: Bundle, fit: HeldOut, held: HeldOut, measure: Measure) -> Judged:
    """What a measure fitted on some rows gives on others."""
    temperatures = [fit_temperature(z, fit.labels) for z in fit.logits]
    fitted, judged = (
        [calibrated_probabilities(z, t) for z, t in zip(part.logits, temperatures, strict=True)]
        for part in (fit, held)
    )
    columns, aurocs = [], []
    for p, q in zip(fitted, judged, strict=True):
        is_right = p.argmax(axis=1) == fit.labels
        on_fit, on_held = measure(p, p, is_right), measure(p, q, is_right)
        aurocs.append(failure_auroc(on_held, q.argmax(axis=1) == held.labels) or np.nan)
        columns.append((ranks(on_fit, on_fit), ranks(on_fit, on_held)))
    tune, test = (
        SplitView(
            confidences=np.stack(confidences, axis=1),
            is_right=np.stack([p.argmax(axis=1) == part.labels for p in probabilities], axis=1),
            chances=chances_of_being_right(probabilities),
            segment_macs=np.array([graph.macs for graph in bundle.manifest.segments]),
            head_macs=np.array([graph.macs for graph in bundle.manifest.exit_heads]),
        )
        for confidences, probabilities, part in zip(
            zip(*columns, strict=True), (fitted, judged), (fit, held), strict=True
        )
    )
    return Judged(np.array(aurocs), macs_at_drops(tune, test))


def macs_at_drops(tune: SplitView, test: SplitView) -> Values:
    """Mean MACs at each of DROPS on `test`, of thresholds tuned on `tune`.

    Between and around the tuned thresholds accuracy is a smooth, rising function of MACs.
    """
    full = test.segment_macs.sum() + test.head_macs[-1]
    paths = [candidate.thresholds for candidate in tuned_candidates(tune)]
    macs = [test.candidate(path).mean_macs / full for path in paths]
    lost = [test.losses(path).mean() for path in paths]
    curve = IsotonicRegression(increasing=False).fit(macs, lost)
    grid = np.linspace(min(macs), max(macs), 2000)
    # lost accuracy falls with MACs; np.interp wants it rising
    return np.interp(DROPS, curve.predict(grid)[::-1], grid[::-1])


def held_out(bundle: Bundle, data: str) -> HeldOut:
    """The rows that calibrated the bundle and the test split, through the exported graphs."""
    manifest = bundle.manifest
    config = TrainConfig.model_validate(manifest.provenance.config)
    train, test = open_images(data, "train"), load_images(data, "test")
    kept = train.take(split_rows(train.labels, config).calibration)
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    images = np.concatenate([kept.images.numpy(), test.images.numpy()])
    labels = np.concatenate([kept.labels.numpy(), test.labels.numpy()])
    with Progress(len(images), "held-out images", "row") as bar:
        return HeldOut(all_logits(runner, images, bar.update), labels)


def table(results: Mapping[str, Sequence[Judged]]) -> str:
    """A row per measure: mean AUROC over exits, its MACs, and the MACs it saves, with spreads."""
    baseline = next(iter(results.values()))
    heads = [f"MACs at {100 * drop:g} points lost %" for drop in DROPS]
    lines = [
        f"| confidence | failure AUROC %, mean of exits | {' | '.join(heads)} "
        "| MACs saved %, mean (least to most) |",
        "|---" * (len(DROPS) + 3) + "|",
    ]
    for name, judged in results.items():
        saved = [100 * (1 - j.macs / b.macs).mean() for j, b in zip(judged, baseline, strict=True)]
        macs = 100 * np.mean([j.macs for j in judged], axis=0)
        auroc = 100 * np.mean([j.auroc for j in judged])
        lines.append(
            f"| {name} | {auroc:.2f} | {' | '.join(f'{m:.1f}' for m in macs)} "
            f"| {np.mean(saved):+.1f} ({min(saved):+.1f} to {max(saved):+.1f}) |"
        )
    return "\n".join(lines)


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: Annotated[str, typer.Argument(help="As for train: what the bundle learned from.")],
    rounds: Annotated[int, typer.Option(help="Times that the images are halved.", min=1)] = 3,
) -> None:
    """Prints a Markdown table, a row for each measure."""
    bundle = load_bundle(path)
    rows = held_out(bundle, data)
    results: dict[str, list[Judged]] = {name: [] for name in MEASURES}
    generator = np.random.default_rng(0)
    for _ in range(rounds):
        one, other = np.array_split(generator.permutation(len(rows.labels)), 2)
        for fit, held in ((one, other), (other, one)):
            for name, measure in MEASURES.items():
                results[name].append(judge(bundle, rows.take(fit), rows.take(held), measure))
    print(table(results))


if __name__ == "__main__":
    typer.run(main)
