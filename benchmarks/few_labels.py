"""Exits on a frozen network when few photos have labels, by how the exits learn.

    python -m benchmarks.few_labels efficientnet.onnx DATA --mean 0.498039 --std 0.501961 \\
        --at getitem_33 --at getitem_78 --at add_626

The network's weights stay as they are, but for its last layer, which learns anew from the photos
with labels: 5, 10, 20 a class, and all. Heads at the cuts named by --at then learn in four ways.
Prints top-1 and top-5 accuracy of every exit on the test photos, mean and spread over seeds. A run
that was stopped goes on where it was: what was measured is kept in the cache, as the features are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from models.bundle.confidence import Floats
from models.bundle.profile import hardware
from training.attaching.attach import input_of
from training.attaching.cut import classifier, named, pieces, places
from training.attaching.features import Features, cache_directory, cached_features, fingerprint
from training.attaching.heads import LINEAR, TWO_LAYER, Recipe, answers, new_heads, train_heads
from training.attaching.photos import Photos, open_photos
from training.attaching.pooling import pool_graph
from training.attaching.preprocessing import Preprocessing
from training.attaching.program import Program, program
from training.attaching.read import Options, read
from training.attaching.trial import runner_of
from training.config import LossName
from training.data.rows import Labels
from training.evaluation.measures import top_k_accuracy
from training.evaluation.report import table
from training.losses import UNLABELLED
from training.origin import git_commit

PER_CLASS = (5, 10, 20, None)
"""Photos of each class that have labels; None is all of them."""
METHODS = ("exit-wise", "distillation", "semi-supervised", "no labels")
BATCH_SIZE = 128
VIEWS = {"train": ("plain", "mirrored"), "test": ("plain",)}


def features_of(
    photos: Photos, cut_up: Program, at: Sequence[str], views: Sequence[str], place: Path
) -> tuple[Features, Path]:
    """Pooled features at the cuts, with what the network's last layer sees in place of logits.

    Also where they are kept.
    """
    found = places(cut_up)
    end = classifier(found, cut_up)
    segments, _ = pieces(cut_up, named(found, at), end)
    cuts = [*named(found, at), end]
    pools = [pool_graph(cut_up, place, exit) for exit, place in enumerate(cuts, start=1)]
    widths = [graph.entry.outputs[0].shape[1] for graph in pools]
    graphs = (graph.entry.sha256 for graph in (*segments, *pools))
    directory = place / fingerprint(*graphs, photos.fingerprint)
    runner, title = runner_of(segments, pools), "computing features"
    features = cached_features(runner, widths[:-1], widths[-1], photos, views, directory, title)
    return features, directory


@dataclass(frozen=True)
class Splits:
    """Features and labels of the training photos, and of the test photos."""

    train: Features
    test: Features
    labels: Labels
    truth: Labels


def kept_labels(labels: Labels, per_class: int | None, seed: int) -> Labels:
    """The labels of so many photos of each class; those of the others are hidden."""
    order = np.random.default_rng(seed).permutation(len(labels))
    kept = np.full_like(labels, UNLABELLED)
    for label in np.unique(labels):
        rows = order[labels[order] == label][:per_class]
        kept[rows] = label
    return kept


def last_exit(splits: Splits, kept: Labels, recipe: Recipe, seed: int) -> tuple[Floats, Floats]:
    """Logits of a new last layer that learned from the labels, on all rows of both splits."""
    num_classes = int(kept.max()) + 1
    seen, asked = (
        replace(
            features,
            pooled=features.logits,
            logits=np.zeros((len(features), num_classes), np.float32),
            widths=(features.logits.shape[1],),
        )
        for features in (splits.train, splits.test)
    )
    torch.manual_seed(seed)
    heads = new_heads(seen, recipe, (LINEAR,))
    labelled = seen.of(np.flatnonzero(kept >= 0), len(VIEWS["train"]))
    train_heads(heads, labelled, kept, replace(recipe, loss="exit-wise"))
    heads[LINEAR][0].eval()
    on_training, on_test = (answers(heads[LINEAR], part)[0] for part in (seen, asked))
    return on_training, on_test


def early_exits(
    method: str, splits: Splits, teacher: Floats, kept: Labels, recipe: Recipe, seed: int
) -> list[Floats]:
    """Logits on the test rows of heads that learned by one method."""
    uses_all = method in ("semi-supervised", "no labels")
    images = np.arange(len(kept)) if uses_all else np.flatnonzero(kept >= 0)
    learning = replace(splits.train, logits=teacher).of(images, len(VIEWS["train"]))
    torch.manual_seed(seed)
    heads = new_heads(learning, recipe, (TWO_LAYER,))
    loss: LossName = "exit-wise" if method == "exit-wise" else "distillation"
    labels = None if method == "no labels" else kept
    train_heads(heads, learning, labels, replace(recipe, loss=loss))
    for head in heads[TWO_LAYER]:
        head.eval()
    return answers(heads[TWO_LAYER], splits.test)


def measured(
    method: str,
    splits: Splits,
    last: Callable[[], tuple[Floats, Floats]],
    kept: Labels,
    recipe: Recipe,
    seed: int,
) -> Floats:
    """Top-1 and top-5 accuracy of every exit on the test photos, (2, exits)."""
    teacher, on_test = last()
    exits = [*early_exits(method, splits, teacher, kept, recipe, seed), on_test]
    accuracies = [[top_k_accuracy(z, splits.truth, k) for z in exits] for k in (1, 5)]
    return np.array(accuracies, np.float32)


def remembered(path: Path, compute: Callable[[], Floats]) -> Floats:
    """What `compute` gives, or gave at the same path before."""
    if not path.exists():
        new = path.with_suffix(".new.npy")
        np.save(new, compute())
        new.rename(path)
    found: Floats = np.load(path)
    return found


def compared(
    splits: Splits, seeds: int, recipe: Recipe, directory: Path
) -> dict[tuple[int | None, str], Floats]:
    """Accuracies on the test photos by labels a class and method: (seeds, 2, exits).

    Seed after seed, so that a run that was stopped has the whole table for fewer seeds.
    """
    found: dict[tuple[int | None, str], list[Floats]] = {}
    for seed, per_class in product(range(seeds), PER_CLASS):
        kept = kept_labels(splits.labels, per_class, seed)
        last = cache(partial(last_exit, splits, kept, recipe, seed))
        for method in METHODS:
            if per_class is None and method == "semi-supervised":
                continue  # no photo is left that has no label
            path = directory / f"{fingerprint(recipe, per_class, seed, method)}.npy"
            compute = partial(measured, method, splits, last, kept, recipe, seed)
            found.setdefault((per_class, method), []).append(remembered(path, compute))
            print(f"seed {seed}, {per_class or 'all'} labels a class, {method}", flush=True)
    return {key: np.stack(values) for key, values in found.items()}


def markdown(found: dict[tuple[int | None, str], Floats]) -> str:
    """One table for top-1, one for top-5: mean and standard deviation over seeds, in percent."""
    tables = []
    for index, name in enumerate(("top-1", "top-5")):
        rows = []
        for (per_class, method), values in found.items():
            means = 100 * values[:, index].mean(axis=0)
            spreads = 100 * values[:, index].std(axis=0, ddof=len(values) > 1)
            cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(means, spreads, strict=True)]
            rows.append([str(per_class or "all"), method, *cells])
        exits = " | ".join(f"exit {exit}" for exit in range(1, len(rows[0]) - 1))
        tables.append(table(f"labels a class | heads, {name} % | {exits}", rows))
    return "\n\n".join(tables)


def main(
    model: Path,
    data: str,
    at: Annotated[list[str], typer.Option(help="A tensor to cut at; give several.")],
    mean: Annotated[float | None, typer.Option(help="Of pixels in [0, 1].")] = None,
    std: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    seeds: int = 3,
    steps: Annotated[int, typer.Option(help="Of training each set of heads.")] = 600,
    keep: Annotated[Path | None, typer.Option(help="Where features and results are.")] = None,
) -> None:
    """Prints Markdown: accuracy of every exit by labels a class and by how the heads learned."""
    means, stds = (None if value is None else (value,) for value in (mean, std))
    network = read(model, Options(mean=means, std=stds))
    if not isinstance(network.preprocessing, Preprocessing):
        raise typer.BadParameter(f"{model} takes no images")
    cut_up, target = program(network), input_of(network.preprocessing)
    photos, tested = (open_photos(data, split, target) for split in ("train", "test"))
    if photos.labels is None or tested.labels is None:
        raise typer.BadParameter(f"{data} has no labels")
    place = keep or cache_directory() / "few-labels"
    train, directory = features_of(photos, cut_up, at, VIEWS["train"], place)
    test, _ = features_of(tested, cut_up, at, VIEWS["test"], place)
    splits = Splits(train, test, photos.labels, tested.labels)
    recipe = Recipe(epochs=1, min_steps=steps, batch_size=BATCH_SIZE)
    found = compared(splits, seeds, recipe, directory)
    print(f"\n{date.today()}, {git_commit()}, {hardware()}, seeds: {seeds}\n\n{markdown(found)}")


if __name__ == "__main__":
    typer.run(main)
