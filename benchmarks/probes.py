"""How quickly probes and metrics are answered while the server is saturated.

    python -m benchmarks.probes models/zoo/cifar100-msdnet/7 DATA

A closed loop over many connections keeps every worker and the event loop busy; meanwhile each probe
is asked ten times a second, over a connection of its own.
"""

import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer

from benchmarks.loading import traffic
from benchmarks.process import serving
from models.bundle.profile import hardware

PROBES = ("/healthz", "/readyz", "/metrics")
PAUSE_S = 0.1


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: str,
    connections: int = 64,
    seconds: float = 20.0,
) -> None:
    """Prints a Markdown table of milliseconds."""
    print(f"{connections} connections, {seconds:g} s, {hardware()}\n")
    print("| processes | requests/s | | p50 ms | p99 ms | longest ms |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, 1000, Path(directory))
        for processes in (1, 2):
            with serving(path.parent.parent, processes=processes, access_log=False) as server:
                over, taken = threading.Event(), {probe: list[float]() for probe in PROBES}
                asking = threading.Thread(target=ask, args=(server.url, over, taken))
                query = f"v1/classify?model={path.parent.name}&version={path.name}"
                asked.load(f"{server.url}/{query}", connections=connections, seconds=2)
                asking.start()
                shots = asked.load(
                    f"{server.url}/{query}", connections=connections, seconds=seconds
                )
                over.set()
                asking.join()
            rate = sum(shot.status == 200 for shot in shots) / seconds
            for probe, times in taken.items():
                p50, p99, longest = (1000 * np.quantile(times, (0.5, 0.99, 1))).tolist()
                print(
                    f"| {processes} | {rate:.0f} | `{probe}` "
                    f"| {p50:.1f} | {p99:.1f} | {longest:.1f} |"
                )


def ask(url: str, over: threading.Event, taken: dict[str, list[float]]) -> None:
    """Notes how many seconds each answer takes, until it is over; none may fail."""
    with httpx.Client(base_url=url) as client:
        while not over.wait(PAUSE_S):
            for probe, times in taken.items():
                start = time.monotonic()
                client.get(probe).raise_for_status()
                times.append(time.monotonic() - start)


if __name__ == "__main__":
    typer.run(main)
