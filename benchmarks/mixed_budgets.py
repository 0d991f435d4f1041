"""Clients of several latency budgets at once: does each get what it asked for?

    python -m benchmarks.mixed_budgets models/zoo/cifar100-msdnet/7 DATA

One load generator per budget, each an open loop of the same rate; first alone, then all together.
"""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer

from benchmarks.loading import Traffic, traffic
from benchmarks.process import serving
from load.generator import Shot
from load.outcomes import latency_ms
from models.bundle.profile import hardware

BUDGETS_MS: tuple[float | None, ...] = (2.0, 20.0, None)


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: str,
    rate: Annotated[float, typer.Option(help="requests/s of each client")] = 100.0,
    seconds: float = 15.0,
    images: int = 1000,
) -> None:
    """Prints a Markdown table."""
    print(f"{path}, threshold 1, {rate:g} requests/s each for {seconds:g} s, {hardware()}\n")
    print("| budget ms | clients | met % | refused % | mean exit | top-1 % | p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, images, Path(directory))
        with serving(path.parent.parent) as server:
            base = (
                f"{server.url}/v1/classify?model={path.parent.name}&version={path.name}&threshold=1"
            )
            urls = [base + ("" if b is None else f"&latency_budget_ms={b:g}") for b in BUDGETS_MS]

            def load(url: str) -> list[Shot]:
                return asked.load(url, rate=rate, seconds=seconds)

            load(base)
            for clients, parallel in (("alone", 1), ("together", len(urls))):
                with ThreadPoolExecutor(parallel) as pool:
                    for budget_ms, shots in zip(BUDGETS_MS, pool.map(load, urls), strict=True):
                        print(row(asked, clients, budget_ms, shots), flush=True)


def row(asked: Traffic, clients: str, budget_ms: float | None, shots: Sequence[Shot]) -> str:
    answered = [shot for shot in shots if shot.status == 200]
    num_met = sum(budget_ms is None or 1000 * s.latency_s <= budget_ms for s in answered)
    refused = sum(shot.status == 503 for shot in shots) / len(shots)
    cells = (
        "none" if budget_ms is None else f"{budget_ms:g}",
        clients,
        f"{100 * num_met / len(shots):.1f}",
        f"{100 * refused:.1f}",
        f"{mean(shot.answer['exit'] for shot in answered):.2f}",
        f"{100 * asked.accuracy(answered):.1f}",
        f"{latency_ms(shots, 0.5):.2f}",
        f"{latency_ms(shots, 0.99):.2f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
