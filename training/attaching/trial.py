"""A head at every place where the network could be cut, and what each is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from models.bundle.confidence import Floats
from models.bundle.cost_profile import CostProfile
from models.bundle.profile import RUNS, measure
from models.bundle.runner import SegmentRunner
from training.attaching.cut import Place, pieces
from training.attaching.features import (
    VIEWS,
    Features,
    cache_directory,
    cached_features,
    fingerprint,
)
from training.attaching.heads import KINDS, LINEAR, PooledHead, answers, trained_heads
from training.attaching.order import Order
from training.attaching.photos import Parts, Photos
from training.attaching.pooling import head_graph, pool_graph
from training.attaching.program import Program
from training.exporting.calibrate import halves
from training.exporting.graphs import ExportedGraph
from training.progress import Progress

ENOUGH = 0.002
"""Agreement that a two-layer head must gain to be preferred to a linear one."""


@dataclass(frozen=True)
class Trial:
    """The best head of every place, and all logits of the calibration rows, the last exit's last.

    `cost` is that of the network cut at every place, `whole_s` that of the network uncut.
    """

    cuts: tuple[Place, ...]
    heads: tuple[PooledHead, ...]
    logits: list[Floats]
    cost: CostProfile
    whole_s: float


def tried(order: Order, cut_up: Program, cuts: Sequence[Place], end: Place, parts: Parts) -> Trial:
    """Trains heads at all `cuts` and measures what they and the segments between cost."""
    segments, last_head = pieces(cut_up, cuts, end)
    views = ("plain",) if cut_up.is_of_texts else tuple(VIEWS)
    features, directory = kept_features(order, cut_up, cuts, [*segments, last_head], parts, views)
    learning, lengths = features.of(parts.learning, len(views)), typical_length(parts.photos)
    calibration = features.of(parts.calibrating, 1)
    heads = trained_heads(learning, parts.photos.labels, order.recipe, order.seed, directory)
    best, logits = better_heads(heads, calibration)
    graphs = [
        head_graph(cut_up, p, h.layers(), k)
        for k, (p, h) in enumerate(zip(cuts, best, strict=True), 1)
    ]
    whole = runner_of(*uncut(cut_up, end))
    cost = measured(runner_of(segments, [*graphs, last_head]), "measuring the pieces", lengths)
    whole_cost = measured(whole, "measuring the whole", lengths)
    return Trial(
        cuts=tuple(cuts),
        heads=tuple(best),
        logits=[*logits, calibration.batch(np.arange(len(calibration)))[1]],
        cost=cost,
        whole_s=full_s(whole_cost),
    )


def kept_features(
    order: Order,
    cut_up: Program,
    cuts: Sequence[Place],
    network: Sequence[ExportedGraph],
    parts: Parts,
    views: Sequence[str],
) -> tuple[Features, Path]:
    """The features at every cut, and where they are kept; `network` is its segments and head.

    The sessions that compute them end with this function, and free their memory.
    """
    *segments, last_head = network
    pools = [pool_graph(cut_up, place, exit) for exit, place in enumerate(cuts, start=1)]
    directory = (order.cache or cache_directory() / "attach") / fingerprint(
        *(graph.entry.sha256 for graph in (*segments, *pools, last_head)),
        parts.photos.fingerprint,
        order.options.resize,
    )
    features = cached_features(
        runner_of(segments, [*pools, last_head]),
        [graph.entry.outputs[0].shape[1] for graph in pools],
        last_head.entry.outputs[0].shape[1],
        parts.photos,
        views,
        directory,
        "computing features",
    )
    return features, directory


def uncut(cut_up: Program, end: Place) -> tuple[list[ExportedGraph], list[ExportedGraph]]:
    segments, head = pieces(cut_up, [], end)
    return segments, [head]


def better_heads(
    heads: dict[str, list[PooledHead]], calibration: Features
) -> tuple[list[PooledHead], list[Floats]]:
    """For each place the kind of head that agrees most with the network on the rows that tune."""
    tuning, _ = halves(len(calibration))
    teacher = calibration.batch(tuning)[1].argmax(axis=1)
    logits = {kind: answers(heads[kind], calibration) for kind in KINDS}
    chosen = []
    for place in range(len(calibration.widths)):
        agreement = {
            kind: float((logits[kind][place][tuning].argmax(axis=1) == teacher).mean())
            for kind in KINDS
        }
        agreement[LINEAR] += ENOUGH
        chosen.append(max(KINDS, key=lambda kind: agreement[kind]))
    return (
        [heads[kind][place] for place, kind in enumerate(chosen)],
        [logits[kind][place] for place, kind in enumerate(chosen)],
    )


def runner_of(segments: Sequence[ExportedGraph], heads: Sequence[ExportedGraph]) -> SegmentRunner:
    content = {graph.entry.file: graph.content for graph in (*segments, *heads)}
    return SegmentRunner([g.entry for g in segments], [g.entry for g in heads], content)


def measured(runner: SegmentRunner, title: str, lengths: Sequence[int] = ()) -> CostProfile:
    """What each piece costs for one row."""
    with Progress(RUNS, title, "round") as bar:
        step = partial(bar.update, 1)
        return measure(runner, batch_sizes=(1,), progress=step, lengths=lengths)


def typical_length(photos: Photos) -> tuple[int, ...]:
    """The length bucket of the median text; nothing for images."""
    length = int(np.quantile(photos.order, 0.5, method="nearest"))
    return (length,) if length else ()


def full_s(cost: CostProfile) -> float:
    """Seconds of one image to the last exit, without the heads on the way."""
    return sum(segment.median_s[0] for segment in cost.segments) + cost.exit_heads[-1].median_s[0]
