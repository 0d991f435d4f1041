"""A real model with a made cost profile, so that what the scheduler expects is known."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.small_bundles import LENGTHS, write_text_bundle
from models.bundle.bundle import Bundle, load_bundle
from models.bundle.cost_profile import CostProfile, GraphCost, LengthCosts
from models.bundle.costs import Costs
from models.bundle.runner import SegmentRunner
from server.engine.model import ServedModel

BATCH_SIZES = (1, 2, 4)


def made_profile(
    per_row_s: float,
    fixed_s: float = 0.0,
    watts: float = 8.0,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
) -> CostProfile:
    """Every graph of three exits takes `fixed_s` + `per_row_s` for each row."""
    seconds = tuple(fixed_s + per_row_s * rows for rows in batch_sizes)
    graphs = tuple(GraphCost(exit=k, median_s=seconds, p95_s=seconds) for k in (1, 2, 3))
    return CostProfile(
        schema_version=1,
        hardware="made",
        threads=1,
        runs=1,
        batch_sizes=batch_sizes,
        segments=graphs,
        exit_heads=graphs,
        watts=watts,
        energy_method="estimate",
    )


def served(bundle: Bundle, profile: CostProfile) -> ServedModel:
    manifest = bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    return ServedModel(bundle, runner, profile, Costs(profile))


@pytest.fixture
def model(digits_bundle: Bundle) -> ServedModel:
    """Batching saves time: a graph takes 4 ms and 1 ms more for each row. Lanes are threads."""
    return served(digits_bundle, made_profile(per_row_s=0.001, fixed_s=0.004))


@pytest.fixture
def short_model(digits_bundle: Bundle) -> ServedModel:
    """A graph takes 0.25 ms and 0.25 ms more for each row: batches run on the event loop."""
    return served(digits_bundle, made_profile(per_row_s=0.00025, fixed_s=0.00025))


@pytest.fixture
def words(tmp_path: Path) -> ServedModel:
    """A model of texts: a graph takes 1, 2 or 6 ms for a batch of rows of the three lengths."""
    bundle = load_bundle(write_text_bundle(tmp_path))
    *shorter, largest = (made_profile(0.0, fixed_s) for fixed_s in (0.001, 0.002, 0.006))
    costs = [
        LengthCosts(length=length, **made.model_dump(include=set(LengthCosts.model_fields)))
        for length, made in zip(LENGTHS, shorter, strict=False)
    ]
    profile = largest.model_copy(update={"shorter": tuple(costs)})
    of_lengths = {part.length: Costs(profile.of_length(part.length)) for part in costs}
    return replace(served(bundle, profile), shorter=of_lengths)
