"""Measuring what each graph of a bundle costs on this host; export and server use the same code."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from models.bundle.cores import num_cores
from models.bundle.cost_profile import CostProfile, GraphCost, GraphCosts, LengthCosts
from models.bundle.defaults import MAX_S, WATTS_PER_CORE
from models.bundle.energy import Meter, metered
from models.bundle.records import LENGTH, SCHEMA_VERSION, Tensor
from models.bundle.runner import Arrays, SegmentRunner

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
RUNS, MIN_RUNS = 20, 3
WARM_UP_SHARE = 0.2
NO_SPANS: Mapping[str, int] = MappingProxyType({})


def measure(
    runner: SegmentRunner,
    *,
    lengths: Sequence[int] = (),
    least: Mapping[str, int] = NO_SPANS,
    runs: int = RUNS,
    max_s: float = MAX_S,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    watts: float = WATTS_PER_CORE,
    meter: Meter | None = None,
    progress: Callable[[], object] = lambda: None,
) -> CostProfile:
    """Times every graph at every batch size, on one thread, round by round after a warm-up.

    Times are by the runner's clock: what else runs on the host at the moment is none of the
    bundle's cost. Takes about `max_s` at most: it leaves out the largest batches and rounds beyond
    `MIN_RUNS` where they do not fit. `progress` is called after each round; what it raises ends the
    measurement. With a meter, the watts are what the rounds use beyond the idle host. `lengths` are
    the manifest's length buckets: a round goes through all of them. `least` is that of its input.
    """
    start = time.perf_counter()
    share_s = WARM_UP_SHARE * max_s / max(1, len(lengths))
    batches = {
        length: warmed_up(runner, batch_sizes, share_s, length, least) for length in lengths or [0]
    }
    rounds: list[dict[int, list[list[tuple[float, float]]]]] = []
    with metered(meter) as usage:
        while len(rounds) < min(runs, MIN_RUNS) or (
            len(rounds) < runs and time.perf_counter() - start < max_s
        ):
            rounds.append({n: [_pass_s(runner, b) for b in sizes] for n, sizes in batches.items()})
            progress()
    *shorter, largest = (
        (length, _costs([one[length] for one in rounds], batch_sizes)) for length in batches
    )
    return CostProfile(
        schema_version=SCHEMA_VERSION,
        hardware=hardware(),
        threads=1,
        runs=len(rounds),
        **dict(largest[1]),
        watts=usage.watts or watts,
        energy_method=meter.source if meter and usage.watts else "estimate",
        shorter=tuple(LengthCosts(length=length, **dict(costs)) for length, costs in shorter),
    )


def warmed_up(
    runner: SegmentRunner,
    batch_sizes: Sequence[int],
    max_s: float,
    length: int = 0,
    least: Mapping[str, int] = NO_SPANS,
) -> list[Arrays]:
    """A batch of made-up rows of each size, sent through once, until `max_s` have passed."""
    generator, start = np.random.default_rng(0), time.perf_counter()
    batches: list[Arrays] = []
    for rows in batch_sizes:
        batches.append([made_up(each, rows, length, least, generator) for each in runner.inputs])
        _pass_s(runner, batches[-1])
        if time.perf_counter() - start > max_s:
            break
    return batches


def made_up(
    tensor: Tensor, rows: int, length: int, least: Mapping[str, int], generator: Generator
) -> NDArray[Any]:
    """Rows of an input: random bytes or floats. Integers are 0, for they may look something up.

    Those with a span are the smallest of it. Of a mask every position counts.
    """
    shape = rows, *(length if size == LENGTH else size for size in tensor.shape[1:])
    if tensor.name in least:
        return np.full(shape, least[tensor.name], tensor.dtype)
    if tensor.dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    if tensor.dtype.startswith("float"):
        return generator.standard_normal(shape).astype(tensor.dtype)
    return np.full(shape, tensor.name == "attention_mask", tensor.dtype)


def _pass_s(runner: SegmentRunner, features: Arrays) -> list[tuple[float, float]]:
    """Seconds of segment and head of every exit, for one batch sent through all of them."""
    seconds = []
    for exit in range(1, runner.num_exits + 1):
        start = runner.clock()
        features = runner.run_segment(exit, features)
        between = runner.clock()
        runner.run_head(exit, features)
        seconds.append((between - start, runner.clock() - between))
    return seconds


def _costs(rounds: list[list[list[tuple[float, float]]]], batch_sizes: Sequence[int]) -> GraphCosts:
    """From the seconds of rounds, (rounds, batch sizes, exits, segment and head)."""
    quantiles = np.quantile(np.array(rounds), (0.5, 0.95), axis=0)
    return GraphCosts(
        batch_sizes=tuple(batch_sizes[: quantiles.shape[1]]),
        segments=_graph_costs(quantiles[..., 0]),
        exit_heads=_graph_costs(quantiles[..., 1]),
    )


def _graph_costs(quantiles: NDArray[np.float64]) -> tuple[GraphCost, ...]:
    """From the median and the 95th percentile: (2, batch sizes, exits) seconds."""
    median, p95 = quantiles.transpose(0, 2, 1)
    return tuple(
        GraphCost(exit=exit, median_s=tuple(m.tolist()), p95_s=tuple(p.tolist()))
        for exit, (m, p) in enumerate(zip(median, p95, strict=True), start=1)
    )


def hardware() -> str:
    """The processor's name and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, {num_cores()} cores"
