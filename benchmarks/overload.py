"""Open loop from far below to far above capacity, every request with the same latency budget.

    python -m benchmarks.overload models/zoo/cifar100-msdnet/7 DATA --plot docs/overload.png

Loads are multiples of what the plain server of the same bundle carries, measured first. Each rival
is given, for all loads, the limit with which it gives most right answers in time at twice that.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import typer
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.contest import (
    NO_MEAN,
    NO_STD,
    OURS,
    SETTINGS,
    BundlePath,
    Mean,
    Original,
    Std,
    best_mosec,
    circumstances,
    naive_exits,
    offramp,
    plain,
    plain_original,
)
from benchmarks.loading import Traffic, traffic
from benchmarks.rivals.start import Rival, running
from load.outcomes import HEADINGS, Outcomes, medians, outcomes
from load.target import ROUTE

MULTIPLES = (0.2, 0.5, 0.8, 1.0, 2.0, 3.0, 5.0)
LIMITS = (None, 4, 8, 16, 32, 64)
Table = dict[float, dict[str, list[Outcomes]]]


def main(
    path: BundlePath,
    data: str,
    original: Original = None,
    mean: Mean = NO_MEAN,
    std: Std = NO_STD,
    budget_ms: float = 25.0,
    images: int = 1000,
    rounds: int = 2,
    seconds: int = 10,
    search_seconds: int = 4,
    plot: Path | None = None,
) -> None:
    """Prints a Markdown table; the last line says how late the load generator was."""
    print(f"{path}, {budget_ms:g} ms, rounds: {rounds} of {seconds:g} s, {circumstances()}")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as servers:
        asked = traffic(data, images, Path(directory))
        capacity = carried(asked, plain(path), search_seconds)
        print(f"{SETTINGS} {plain(path).name} carries {capacity:.0f} requests/s.\n")
        kinds = [naive_exits(path), plain(path), best_mosec(asked, path)]
        kinds += [plain_original(path, original, mean, std)] if original else []
        kinds += [kind.with_budget(budget_ms) for kind in kinds]
        rivals = [
            best_limit(asked, kind, 2 * capacity, search_seconds, budget_ms) for kind in kinds
        ]
        server = servers.enter_context(offramp(path, Path(directory)))
        urls = {OURS: f"{server.url}{ROUTE}?latency_budget_ms={budget_ms:g}"}
        for rival in rivals:
            urls[rival.name] = servers.enter_context(running(rival)).url + ROUTE
        table: Table = {multiple: {name: [] for name in urls} for multiple in MULTIPLES}
        for seed in tqdm(range(rounds), unit="round"):
            for multiple, row in table.items():
                for name, url in urls.items():
                    row[name].append(run(asked, url, multiple * capacity, seconds, budget_ms, seed))
    show(table)
    if plot is not None:
        draw(table, plot)


def carried(asked: Traffic, rival: Rival, seconds: int) -> float:
    """Requests per second over 32 connections."""
    with running(rival) as server:
        asked.closed_loop(server.url + ROUTE, 32, 2)
        return asked.closed_loop(server.url + ROUTE, 32, seconds).rate


def best_limit(asked: Traffic, rival: Rival, rate: float, seconds: int, budget_ms: float) -> Rival:
    """The rival with the limit that gives most right answers in time."""
    right = {}
    for limit in LIMITS:
        with running(rival.with_limit(limit)) as server:
            url = server.url + ROUTE
            right[limit] = run(asked, url, rate, seconds, budget_ms).right
    tried = ", ".join(f"{limit or 'none'}: {found:.0f}" for limit, found in right.items())
    print(f"{rival.name}, right in time/s at twice that, by limit: {tried}.", flush=True)
    return rival.with_limit(max(right, key=right.__getitem__))


def run(
    asked: Traffic, url: str, rate: float, seconds: int, budget_ms: float, seed: int = 0
) -> Outcomes:
    """One load, after a second that warms the server up and takes what an earlier load left."""
    asked.load(url, connections=8, seconds=1)
    shots = asked.load(url, rate=rate, seconds=seconds, seed=seed)
    return outcomes(shots, seconds, budget_ms, asked.is_right)


def show(table: Table) -> None:
    """One line per load and server: medians, and the smallest and largest right in time/s."""
    print(f"\n| load | server | {' | '.join(HEADINGS)} | right, least to most |")
    print(f"|{'---|' * (3 + len(HEADINGS))}")
    for multiple, row in table.items():
        for name, rounds in row.items():
            right = [found.right for found in rounds]
            spread = f"{min(right):.0f} to {max(right):.0f}"
            print(f"| {multiple:g} | {name} | {' | '.join(medians(rounds).cells())} | {spread} |")
    lags = [found.lag_ms for row in table.values() for rounds in row.values() for found in rounds]
    print(f"\nThe generator sent 99 % within {max(lags):.1f} ms of due.")


def draw(table: Table, path: Path) -> None:
    """Right answers in time, and accuracy of all answers, against load."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    right, accuracy = figure.subplots(1, 2)
    for name in next(iter(table.values())):
        found = [medians(row[name]) for row in table.values()]
        loads: Sequence[float] = list(table)
        style = {"marker": "o", "label": name, "linewidth": 2.5 if name == OURS else 1}
        right.plot(loads, [f.right for f in found], **style)
        accuracy.plot(loads, [100 * f.accuracy for f in found], **style)
    load = "offered load, x what the plain server carries"
    right.set(xlabel=load, ylabel="right answers in time per second")
    accuracy.set(xlabel=load, ylabel="top-1 of the answers, %")
    right.set_ylim(bottom=0)
    right.legend(fontsize="small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
