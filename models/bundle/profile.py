"""Measuring what each graph of a bundle costs on this host; export and server use the same code."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from models.bundle.manifest import SCHEMA_VERSION, CostProfile, GraphCost
from models.bundle.runner import Arrays, SegmentRunner

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
RUNS = 20
WATTS_PER_CORE = 8.0
"""Active power of one server core, a typical value: the estimate where no meter is read."""


def measure(
    runner: SegmentRunner,
    *,
    runs: int = RUNS,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    watts: float = WATTS_PER_CORE,
    progress: Callable[[], object] = lambda: None,
) -> CostProfile:
    """Times every graph at every batch size, on one thread, after a warm-up of two runs.

    `progress` is called after each batch size.
    """
    exits = range(1, runner.num_exits + 1)
    seconds: dict[tuple[str, int], list[list[float]]] = {
        (kind, exit): [] for kind in ("segment", "head") for exit in exits
    }
    generator = np.random.default_rng(0)
    for rows in batch_sizes:
        size = (rows, *runner.input_shape)
        features: Arrays = [generator.integers(0, 256, size, dtype=np.uint8)]
        for exit in exits:
            seconds["segment", exit].append(_times(runner.run_segment, exit, features, runs))
            features = runner.run_segment(exit, features)
            seconds["head", exit].append(_times(runner.run_head, exit, features, runs))
        progress()
    return CostProfile(
        schema_version=SCHEMA_VERSION,
        hardware=hardware(),
        threads=1,
        runs=runs,
        batch_sizes=tuple(batch_sizes),
        segments=tuple(_graph_cost(exit, seconds["segment", exit]) for exit in exits),
        exit_heads=tuple(_graph_cost(exit, seconds["head", exit]) for exit in exits),
        watts=watts,
        energy_method="estimate",
    )


def _times(
    run: Callable[[int, Arrays], object], exit: int, features: Arrays, runs: int
) -> list[float]:
    times = []
    for _ in range(runs + 2):
        start = time.perf_counter()
        run(exit, features)
        times.append(time.perf_counter() - start)
    return times[2:]


def _graph_cost(exit: int, seconds: list[list[float]]) -> GraphCost:
    median, p95 = np.quantile(np.array(seconds), (0.5, 0.95), axis=1)
    return GraphCost(exit=exit, median_s=tuple(median.tolist()), p95_s=tuple(p95.tolist()))


def hardware() -> str:
    """The processor's name and the number of cores this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
