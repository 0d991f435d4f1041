"""Open loop from far below to far above capacity, every request with the same latency budget.

    python -m benchmarks.overload models/zoo/cifar100-msdnet/3 DATA --plot docs/overload.png

Beside Offramp the plain server of `benchmarks.plain`: the same network in full depth, first in
first out. Capacity is what Offramp answers per second in full depth over 32 connections.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.load import Shot
from benchmarks.loading import Traffic, latency_ms, traffic
from benchmarks.plain import serving_plainly
from benchmarks.process import serving
from models.bundle.bundle import load_bundle
from models.bundle.profile import hardware

MET = {"met": True}
MULTIPLES = (0.2, 0.5, 0.8, 1.0, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Result:
    """What one server made of one load; shares are of all requests sent.

    `late` is by the client's clock, from when a request was due; `missed` by Offramp's own, from
    headers to response: the client is on the same cores.
    """

    server: str
    multiple: float
    rate: float
    goodput: float
    refused: float
    late: float
    missed: float
    failed: float
    accuracy: float
    p50_ms: float
    p99_ms: float
    exits: str
    lag_ms: float

    def row(self) -> str:
        return (
            f"| {self.multiple:g} | {self.server} | {self.rate:.0f} | {self.goodput:.0f} "
            f"| {100 * self.refused:.1f} | {100 * self.late:.2f} "
            f"| {100 * self.missed:.2f} | {100 * self.failed:.2f} "
            f"| {100 * self.accuracy:.1f} | {self.p50_ms:.1f} | {self.p99_ms:.1f} | {self.exits} |"
        )


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: str,
    budget_ms: float = 25.0,
    point: str = "balanced",
    seconds: float = 10.0,
    images: int = 1000,
    processes: int = 1,
    plot: Path | None = None,
) -> None:
    """Prints a Markdown table; the last line says how late the load generator was."""
    bundle = load_bundle(path)
    num_exits = bundle.manifest.num_exits
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, images, Path(directory))
        with (
            serving(path.parent.parent, processes=processes, access_log=False) as offramp,
            serving_plainly(bundle, Path(directory)) as plain,
        ):
            ours = f"{offramp.url}/v1/classify?version={path.name}"
            full = f"{ours}&min_exit={num_exits}"
            urls = {
                "Offramp": f"{ours}&operating_point={point}&latency_budget_ms={budget_ms:g}",
                "plain": f"{plain.url}/v1/classify",
            }
            for url in (*urls.values(), full):
                asked.load(url, connections=32, seconds=2)
            capacity = len(asked.load(full, connections=32, seconds=seconds)) / seconds
            print(f"`{point}` of {path}, {budget_ms:g} ms, {seconds:g} s each, {hardware()};")
            print(f"capacity in full depth {capacity:.0f} requests/s, processes: {processes}\n")
            results = [
                result(asked, name, url, multiple, multiple * capacity, seconds, budget_ms)
                for multiple in tqdm(MULTIPLES)
                for name, url in urls.items()
            ]
    print(
        "| load | server | requests/s | good/s | refused % | late % | missed % | failed % "
        "| top-1 % | p50 ms | p99 ms | per exit % |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for found in results:
        print(found.row())
    print(f"\nThe generator sent 99 % within {max(r.lag_ms for r in results):.1f} ms of due.")
    if plot is not None:
        draw(results, plot)


def result(
    asked: Traffic,
    name: str,
    url: str,
    multiple: float,
    rate: float,
    seconds: float,
    budget_ms: float,
) -> Result:
    """Runs one load and sums it up."""
    shots = asked.load(url, rate=rate, seconds=seconds)
    asked.load(url, connections=32, seconds=1)  # behind what is left, which would slow the next one
    answered = [shot for shot in shots if shot.status == 200]
    num_good = sum(1000 * shot.latency_s <= budget_ms for shot in answered)
    num_refused = sum(shot.status == 503 for shot in shots)
    lags = sorted(shot.sent_s - shot.due_s for shot in shots)
    return Result(
        server=name,
        multiple=multiple,
        rate=len(shots) / seconds,
        goodput=num_good / seconds,
        refused=num_refused / len(shots),
        late=(len(answered) - num_good) / len(shots),
        missed=sum(not s.answer.get("budget", MET)["met"] for s in answered) / len(shots),
        failed=1 - (len(answered) + num_refused) / len(shots),
        accuracy=asked.accuracy(answered),
        p50_ms=latency_ms(shots, 0.5),
        p99_ms=latency_ms(shots, 0.99),
        exits=exit_shares(answered),
        lag_ms=1000 * lags[int(0.99 * len(lags))],
    )


def exit_shares(answered: Sequence[Shot]) -> str:
    """Per cent of the answers at each exit; the plain server has only one."""
    exits = Counter(shot.answer["exit"] for shot in answered if "exit" in shot.answer)
    if not exits:
        return "all at the last"
    num_exits = next(shot.answer["num_exits"] for shot in answered)
    return " ".join(f"{100 * exits[k] / len(answered):.0f}" for k in range(1, num_exits + 1))


def draw(results: Sequence[Result], path: Path) -> None:
    """Goodput and accuracy against load."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    good, right = figure.subplots(1, 2)
    for name in dict.fromkeys(r.server for r in results):
        own = [r for r in results if r.server == name]
        loads = [r.multiple for r in own]
        good.plot(loads, [r.goodput for r in own], marker="o", label=name)
        right.plot(loads, [100 * r.accuracy for r in own], marker="o", label=name)
    good.set(xlabel="offered load, x full-depth capacity", ylabel="answers in time per second")
    right.set(xlabel="offered load, x full-depth capacity", ylabel="top-1 of the answers, %")
    good.set_ylim(bottom=0)
    good.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
