"""Background work at full load beside requests with a budget: do they notice, and what does it get?

    python -m benchmarks.background models/zoo/cifar100-msdnet/3 data/cifar100 --rate 200

A B A B: an open loop of requests with a budget alone, then beside a closed loop of requests with
`priority=background`. What was idle is the share of the time that the server's cores did not work
while the open loop was alone; background work could have had that share of its own rate alone.
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Annotated

import typer

from benchmarks.loading import Traffic, traffic
from benchmarks.process import serving, totals
from load.generator import Shot
from load.outcomes import latency_ms
from models.bundle.profile import hardware

CPU = "process_cpu_seconds_total"


@dataclass(frozen=True)
class Part:
    """What a part of a round gave: the open loop's answers, background answers per second, and the
    share of the server's cores that worked."""

    shots: list[Shot]
    background_rate: float
    busy: float


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle to serve.")],
    data: Annotated[str, typer.Argument(help="Data set whose test images are sent.")],
    rate: Annotated[float, typer.Option(help="Requests per second with a budget.")] = 200.0,
    budget_ms: Annotated[float, typer.Option(help="Their latency budget, milliseconds.")] = 25.0,
    connections: Annotated[int, typer.Option(help="Background requests at once.")] = 16,
    processes: Annotated[int, typer.Option(help="Server processes.")] = 1,
    seconds: Annotated[int, typer.Option(help="Length of each part.")] = 10,
    rounds: Annotated[int, typer.Option(help="Times that both are measured.")] = 3,
    images: Annotated[int, typer.Option(help="Test images to send.")] = 1000,
) -> None:
    """Prints a Markdown table, then the share of idle time that background work got."""
    print(f"{bundle}, {rate:g} requests/s with {budget_ms:g} ms, {hardware()}\n")
    print(
        "| background | in time % | p50 ms | p99 ms | mean exit | top-1 % | background/s | busy % |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, images, Path(directory))
        with serving(bundle.parents[1], processes=processes, access_log=False) as server:
            base = f"{server.url}/v1/classify?model={bundle.parent.name}&version={bundle.name}"
            background = f"{base}&priority=background"

            def part(*, with_background: bool, with_budgets: bool = True) -> Part:
                before, started = totals(server.url, "")[CPU], time.monotonic()
                url, shots = f"{base}&latency_budget_ms={budget_ms:g}", []
                with ThreadPoolExecutor(1) as pool:
                    loop = partial(asked.closed_loop, background, connections, seconds)
                    running = pool.submit(loop) if with_background else None
                    if with_budgets:
                        shots = asked.load(url, rate=rate, seconds=seconds)
                    done = 0.0 if running is None else running.result().rate
                wall_s = time.monotonic() - started
                return Part(
                    shots, done, (totals(server.url, "")[CPU] - before) / wall_s / processes
                )

            part(with_background=True)  # warm
            alone, beside = [], []
            for _ in range(rounds):
                alone.append(part(with_background=False))
                print(row(asked, "no", budget_ms, alone[-1]), flush=True)
                beside.append(part(with_background=True))
                print(row(asked, "full load", budget_ms, beside[-1]), flush=True)
            full = part(with_background=True, with_budgets=False).background_rate
    idle = 1 - median(p.busy for p in alone)
    got = median(p.background_rate for p in beside)
    print(f"\nalone, background work gets {full:.1f} answers/s; {100 * idle:.0f} % of the cores'")
    print(
        f"time was idle; beside the others it gets {got:.1f}/s, {got / (full * idle):.2f} of that"
    )


def row(asked: Traffic, background: str, budget_ms: float, part: Part) -> str:
    answered = [shot for shot in part.shots if shot.status == 200]
    in_time = sum(1000 * shot.latency_s <= budget_ms for shot in answered)
    cells = (
        background,
        f"{100 * in_time / len(part.shots):.2f}",
        f"{latency_ms(part.shots, 0.5):.2f}",
        f"{latency_ms(part.shots, 0.99):.2f}",
        f"{fmean(shot.answer['exit'] for shot in answered):.3f}",
        f"{100 * asked.accuracy(answered):.1f}",
        f"{part.background_rate:.1f}",
        f"{100 * part.busy:.0f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
