"""Requests per second over HTTP, beside a bare loop and beside a plain server, A B A B.

    python -m benchmarks.efficiency models/zoo/cifar100-msdnet/3 DATA

In every round each server is asked over each number of connections, one after the other. The bare
loop runs the same segments and exits on the same images one by one, without HTTP, in as many
processes as there are cores. No server logs requests.
"""

import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.load import Shot
from benchmarks.loading import latency_ms, traffic
from benchmarks.plain import serving_plainly
from benchmarks.process import serving
from models.bundle.bundle import load_bundle
from models.bundle.confidence import calibrated_probabilities, confidence
from models.bundle.policy import policy_at, runs_head, stop_reason
from models.bundle.profile import hardware
from models.bundle.runner import Arrays, SegmentRunner

CONNECTIONS = (1, 8, 32)
Rounds = list[list[Shot]]


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: str,
    point: str = "balanced",
    images: int = 1000,
    rounds: int = 5,
    seconds: float = 6.0,
    float32: Annotated[
        Path | None, typer.Option(help="the same weights as a bundle in float32, for the plain one")
    ] = None,
) -> None:
    """Prints a Markdown table: medians over the rounds, and the smallest and largest rate."""
    print(f"`{point}` of {path}, {rounds} rounds of {seconds:g} s each, {hardware()}\n")
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, images, Path(directory))
        pixels = asked.images.images.numpy()
        with ExitStack() as servers:
            query = f"v1/classify?operating_point={point}&version={path.name}"
            zoo, cores = path.parent.parent, len(os.sched_getaffinity(0))
            urls = {}
            for name, processes in (("Offramp", 1), (f"Offramp, {cores} processes", cores)):
                server = serving(zoo, processes=processes, access_log=False)
                urls[name] = f"{servers.enter_context(server).url}/{query}"
            for bundle in filter(None, (path, float32)):
                server = serving_plainly(load_bundle(bundle), Path(directory))
                urls[f"plain, {bundle}"] = f"{servers.enter_context(server).url}/v1/classify"
            arms: dict[tuple[str, int], Rounds] = {(n, c): [] for c in CONNECTIONS for n in urls}
            bare: list[float] = []
            for number in tqdm(range(rounds + 1), unit="round"):
                rate = bare_rate(path, pixels, point, seconds)
                for (name, connections), found in arms.items():
                    shots = asked.load(urls[name], connections=connections, seconds=seconds)
                    if number > 0:  # the first one warms up
                        found.append(shots)
                if number > 0:
                    bare.append(rate)
    print("| | connections | requests/s | of the bare loop | p50 ms | p99 ms | top-1 % |")
    print("|---|---|---|---|---|---|---|")
    print(f"| bare loop | | {median(bare):.0f} ({min(bare):.0f} to {max(bare):.0f}) | 1 | | | |")
    for (name, connections), found in arms.items():
        rates = [sum(shot.status == 200 for shot in shots) / seconds for shots in found]
        share = median(rate / alone for rate, alone in zip(rates, bare, strict=True))
        p50, p99 = (median(latency_ms(shots, q) for shots in found) for q in (0.5, 0.99))
        accuracy = asked.accuracy([shot for shots in found for shot in shots])
        spread = f"{median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
        cells = (name, connections, spread, f"{share:.2f}", f"{p50:.2f}", f"{p99:.2f}")
        print(f"| {' | '.join(map(str, cells))} | {100 * accuracy:.1f} |")


def bare_rate(path: Path, images: NDArray[np.uint8], point: str, seconds: float) -> float:
    """Images per second of all cores together."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores) as pool:
        rates = pool.map(partial(bare_loop, path, images, point), [seconds] * cores)
        return sum(rates)


def bare_loop(path: Path, images: NDArray[np.uint8], point: str, seconds: float) -> float:
    """Images per second of one thread."""
    bundle = load_bundle(path)
    manifest, fitted = bundle.manifest, bundle.calibration.exits
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    policy = policy_at(bundle.calibration.operating_points[point])
    num_done, start = 0, time.perf_counter()
    for image in cycle(images):
        if (elapsed := time.perf_counter() - start) > seconds:
            return num_done / elapsed
        features: Arrays = [image[None]]
        for exit in range(1, manifest.num_exits + 1):
            features = runner.run_segment(exit, features)
            if not runs_head(policy, exit, limit=None) and exit < manifest.num_exits:
                continue
            temperature = fitted[exit - 1].calibration_temperature
            logits = runner.run_head(exit, features)
            (confident,) = confidence(calibrated_probabilities(logits, temperature))
            if stop_reason(policy, exit, confident, limit=None) is not None:
                break
        num_done += 1
    raise ValueError("there are no images")


if __name__ == "__main__":
    typer.run(main)
