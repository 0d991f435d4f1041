"""What `offramp simulate` foretells beside what the server then does, at three loads.

    python -m benchmarks.agreement models/zoo/cifar100-msdnet/1 DATA

The loads are shares of what the server answers in a closed loop over 32 connections. The core time
of HTTP and decoding for one request is what the server's process uses beyond its graphs there.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.loading import Traffic, traffic
from benchmarks.overload import result
from benchmarks.process import ServerProcess, serving
from models.bundle.policy import policy_at
from models.bundle.profile import hardware
from server.catalog import ServedModel, serve_bundle
from server.job import Budget
from server.planning import Load, Plan, poisson, simulate
from server.settings import load_settings

SHARES = (0.3, 0.6, 0.9)
NUM_SIMULATED = 20_000


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: str,
    budget_ms: float = 25.0,
    point: str = "balanced",
    seconds: float = 15.0,
    images: int = 1000,
) -> None:
    """Prints a Markdown table, two lines for each load."""
    settings = load_settings()
    model = serve_bundle(path.resolve(), settings)
    query = f"operating_point={point}&latency_budget_ms={budget_ms:g}"
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, images, Path(directory))
        with serving(path.parent.parent) as server:
            url = f"{server.url}/v1/classify?{query}"
            asked.load(url, connections=32, seconds=3)
            before = core_s(server, model)
            capacity = len(asked.load(url, connections=32, seconds=seconds)) / seconds
            overhead_s = (core_s(server, model) - before) / (capacity * seconds)
            plan = Plan(
                policy_at(model.operating_points[point]),
                Budget(budget_ms / 1000),
                settings.workers,
                settings.max_in_flight,
                overhead_s,
            )
            print(f"`{point}` of {path}, {budget_ms:g} ms, {seconds:g} s each, {hardware()};")
            print(f"{capacity:.0f} requests/s, {1000 * overhead_s:.2f} ms each beside graphs\n")
            print("| requests/s | | good/s | p50 ms | p99 ms | top-1 % | per exit % |")
            print("|---|---|---|---|---|---|---|")
            for rate in (share * capacity for share in SHARES):
                arrivals = poisson(rate, NUM_SIMULATED, np.random.default_rng(0))
                print(
                    f"| {rate:.0f} | simulated | {foretold(simulate(model, plan, arrivals, 0))} |"
                )
                print(f"| {rate:.0f} | served | {served(asked, url, rate, seconds, budget_ms)} |")


def core_s(server: ServerProcess, model: ServedModel) -> float:
    """Core seconds that the server's process has used for anything but graphs."""
    exposition = httpx.get(f"{server.url}/metrics").text
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }
    graphs_s = samples["offramp_energy_joules_total"] / model.profile.watts
    return samples["process_cpu_seconds_total"] - graphs_s


def foretold(load: Load) -> str:
    exits = " ".join(f"{100 * share:.0f}" for share in load.exit_shares)
    return cells(load.goodput, 1000 * load.p50_s, 1000 * load.p99_s, load.accuracy, exits)


def served(asked: Traffic, url: str, rate: float, seconds: float, budget_ms: float) -> str:
    found = result(asked, "Offramp", url, 1.0, rate, seconds, budget_ms)
    return cells(found.goodput, found.p50_ms, found.p99_ms, found.accuracy, found.exits)


def cells(goodput: float, p50_ms: float, p99_ms: float, accuracy: float, exits: str) -> str:
    return f"{goodput:.0f} | {p50_ms:.2f} | {p99_ms:.2f} | {100 * accuracy:.1f} | {exits}"


if __name__ == "__main__":
    typer.run(main)
