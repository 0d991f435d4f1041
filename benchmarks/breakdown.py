"""Where the time of a request goes, over one connection.

    python -m benchmarks.breakdown models/zoo/cifar100-msdnet/7 DATA

Means of what the server says of each answer, what its metrics say of all, and what the client saw.
"""

import tempfile
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from benchmarks.loading import traffic
from benchmarks.process import serving, totals
from load.target import ROUTE
from models.bundle.profile import hardware

DECODE, REQUEST = "offramp_decode_duration_seconds", "offramp_request_duration_seconds"


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: str,
    point: str = "balanced",
    images: int = 1000,
    seconds: float = 10.0,
) -> None:
    """Prints a Markdown table of microseconds."""
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, images, Path(directory))
        with serving(path.parent.parent, access_log=False) as server:
            query = f"model={path.parent.name}&version={path.name}&operating_point={point}"
            url = f"{server.url}{ROUTE}?{query}"
            asked.load(url, connections=1, seconds=2)
            before = totals(server.url, ROUTE)
            shots = asked.load(url, connections=1, seconds=seconds)
            after = totals(server.url, ROUTE)
    costs = [shot.answer["cost"] for shot in shots]
    total, queue, compute = (
        1000 * fmean(cost[f"{name}_ms"] for cost in costs) for name in ("total", "queue", "compute")
    )
    decode, request = (
        1e6 * (after[f"{name}_sum"] - before[f"{name}_sum"]) / len(shots)
        for name in (DECODE, REQUEST)
    )
    seen = 1e6 * fmean(shot.latency_s for shot in shots)
    parts = {
        "client, kernel, and the headers' bytes": seen - request,
        "routing, parameters, body, admission, delivery": total - decode - queue - compute,
        "decoding": decode,
        "waiting for a lane": queue,
        "segments and exit heads": compute,
        "counting, building and sending the response": request - total,
    }
    print(f"`{point}` of {path}, {len(shots)} requests, {hardware()}\n")
    print("| | µs | % |")
    print("|---|---|---|")
    for name, micros in parts.items():
        print(f"| {name} | {micros:.0f} | {100 * micros / seen:.0f} |")
    print(f"| all | {seen:.0f} | 100 |")


if __name__ == "__main__":
    typer.run(main)
