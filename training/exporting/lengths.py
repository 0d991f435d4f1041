"""What rows of several lengths cost on average."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.records import Graph
from training.data.rows import Index
from training.data.sources import Source
from training.data.texts import TextSource

Shares = dict[int, float]
"""The share of rows in each length bucket; empty where all rows have one size."""


def lengths_of(source: Source, rows: Index) -> Index | None:
    """The length bucket of every row, in the order of `inputs_of`; None for rows of one size."""
    return np.sort(source.buckets[rows]) if isinstance(source, TextSource) else None


def bucket_shares(source: Source, rows: Index) -> Shares:
    return shares_of(source.buckets[rows]) if isinstance(source, TextSource) else {}


def shares_of(buckets: NDArray[np.int64]) -> Shares:
    """From the length bucket of every row, 0 where there are none."""
    if not buckets.any():
        return {}
    found, counts = np.unique(buckets, return_counts=True)
    return dict(zip(found.tolist(), (counts / len(buckets)).tolist(), strict=True))


def mean_cost(graphs: Sequence[Graph], shares: Shares) -> list[Graph]:
    """The same graphs with the MACs that these rows take on average."""
    if not shares:
        return list(graphs)
    return [
        graph.model_copy(
            update={"macs": round(sum(s * graph.macs_of(n) for n, s in shares.items()))}
        )
        for graph in graphs
    ]


def at_mean_cost(bundle: Bundle, shares: Shares) -> Bundle:
    """The bundle as an evaluation sees it: with the mean MACs of its rows."""
    manifest = bundle.manifest
    changed = {
        "segments": tuple(mean_cost(manifest.segments, shares)),
        "exit_heads": tuple(mean_cost(manifest.exit_heads, shares)),
    }
    return replace(bundle, manifest=manifest.model_copy(update=changed))
