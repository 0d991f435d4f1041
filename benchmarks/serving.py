"""Requests per second in a closed loop, beside the rivals of `benchmarks.rivals`, A B A B.

    python -m benchmarks.serving models/zoo/cifar100-msdnet/7 DATA \\
        --float32 models/zoo/cifar100-msdnet/6
    python -m benchmarks.serving models/zoo/clinc150-text/2 TEXTS

In every round each server is asked over each number of connections, one after the other; the first
round warms up. PNG, JPEG or a text in, JSON out; mosec is asked for images only. The load comes
from the same cores, from `wrk` if installed.
"""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
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
from benchmarks.loading import Answers, Closed, Traffic, traffic
from benchmarks.rivals.start import running
from load.target import ROUTE
from models.bundle.bundle import load_bundle
from models.bundle.text_input import TextInput

CONNECTIONS = (1, 8, 32)
Rounds = dict[str, list[Closed]]


def main(
    path: BundlePath,
    data: str,
    float32: Annotated[
        Path | None, typer.Option(help="the same weights as a bundle in float32, served plainly")
    ] = None,
    original: Original = None,
    mean: Mean = NO_MEAN,
    std: Std = NO_STD,
    images: int = 1000,
    rounds: int = 3,
    seconds: int = 6,
) -> None:
    """Prints a Markdown table: medians over the rounds, and the smallest and largest rate."""
    print(f"{path}, rounds: {rounds} of {seconds:g} s, {circumstances()}")
    print(f"{SETTINGS} Load: {'wrk' if shutil.which('wrk') else 'benchmarks.load'}.")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as servers:
        asked = traffic(data, images, Path(directory))
        rivals = [naive_exits(path), plain(path), *([plain(float32)] if float32 else [])]
        rivals += [plain_original(path, original, mean, std)] if original else []
        if not isinstance(load_bundle(path).manifest.input, TextInput):
            rivals.append(best_mosec(asked, path))
        urls = {OURS: servers.enter_context(offramp(path, Path(directory))).url + ROUTE}
        for rival in rivals:
            urls[rival.name] = servers.enter_context(running(rival)).url + ROUTE
        found = ask_in_turn(asked, urls, rounds, seconds)
        answers = {name: asked.ask(url) for name, url in urls.items()}
    show(found, answers)


def ask_in_turn(
    asked: Traffic, urls: dict[str, str], rounds: int, seconds: int
) -> dict[int, Rounds]:
    """For each number of connections, each server's rounds."""
    found: dict[int, Rounds] = {n: {name: [] for name in urls} for n in CONNECTIONS}
    for number in tqdm(range(rounds + 1), unit="round"):
        for connections, servers in found.items():
            for name, results in servers.items():
                result = asked.closed_loop(urls[name], connections, seconds if number else 1)
                if number > 0:
                    results.append(result)
    return found


def show(found: dict[int, Rounds], answers: dict[str, Answers]) -> None:
    print(
        "| connections | server | requests/s | Offramp / this | p50 ms | p99 ms | failed "
        "| top-1 % | mean exit |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for connections, servers in found.items():
        for name, results in servers.items():
            rates = [result.rate for result in results]
            times = [ours.rate / rate for ours, rate in zip(servers[OURS], rates, strict=True)]
            mean_exit = f"{answers[name].mean_exit:.2f}".replace("nan", "-")
            print(
                f"| {connections} | {name} "
                f"| {median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) "
                f"| {median(times):.2f} ({min(times):.2f} to {max(times):.2f}) "
                f"| {median(r.p50_ms for r in results):.2f} "
                f"| {median(r.p99_ms for r in results):.2f} | {sum(r.failed for r in results)} "
                f"| {100 * answers[name].accuracy:.1f} | {mean_exit} |"
            )


if __name__ == "__main__":
    typer.run(main)
