"""The servers of a benchmark: Offramp as it starts by default, and rivals on the same network."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.loading import Traffic
from benchmarks.process import ROOT, ServerProcess, serving
from benchmarks.rivals.setup import Colour, Setup
from benchmarks.rivals.start import Rival, running
from load.target import ROUTE
from models.bundle.bundle import load_bundle
from models.bundle.profile import hardware

OURS = "Offramp"
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE")]
Original = Annotated[
    Path | None, typer.Option(help="the ONNX file that the bundle was attached from")
]
Mean = Annotated[str, typer.Option(help="its normalisation: mean of red, green and blue")]
Std = Annotated[str, typer.Option(help="its normalisation: standard deviations")]
NO_MEAN, NO_STD = "0,0,0", "1,1,1"
BATCH_SIZES = (1, 4, 16)
TRIAL_S = 3
SETTINGS = "Offramp by default: no settings but zoo and port. No server logs requests."


@contextmanager
def offramp(bundle: Path, directory: Path) -> Iterator[ServerProcess]:
    """`offramp serve` with no settings, on a zoo of this bundle alone."""
    zoo = directory / "zoo"
    place = zoo / load_bundle(bundle).manifest.name / bundle.name
    if not place.exists():
        shutil.copytree(bundle, place)
    with serving(zoo, processes=None, access_log=False) as server:
        yield server


def naive_exits(bundle: Path) -> Rival:
    return Rival("naive exits", Setup(network="exits", bundle=bundle.resolve()))


def mosec(bundle: Path, max_batch_size: int) -> Rival:
    setup = Setup(network="exits", bundle=bundle.resolve(), max_batch_size=max_batch_size)
    return Rival(f"mosec, batches to {max_batch_size}", setup, is_mosec=True)


def best_mosec(asked: Traffic, bundle: Path) -> Rival:
    """mosec with the batches that answer most over 32 connections."""
    rates = {}
    for size in BATCH_SIZES:
        with running(mosec(bundle, size)) as server:
            asked.closed_loop(server.url + ROUTE, 32, 1)
            rates[size] = asked.closed_loop(server.url + ROUTE, 32, TRIAL_S).rate
    tried = ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items())
    print(f"mosec, requests/s over 32 connections by largest batch: {tried}.\n")
    return mosec(bundle, max(rates, key=rates.__getitem__))


def plain(bundle: Path) -> Rival:
    """The uncut network of a bundle, in its precision."""
    precision = load_bundle(bundle).manifest.provenance.precision
    return Rival(f"plain {precision}", Setup(network="uncut", bundle=bundle.resolve()))


def plain_original(bundle: Path, original: Path, mean: str, std: str) -> Rival:
    setup = Setup(
        network="original",
        bundle=bundle.resolve(),
        original=original.resolve(),
        mean=colour(mean),
        std=colour(std),
    )
    return Rival("plain original", setup)


def colour(text: str) -> Colour:
    """Three numbers with commas."""
    red, green, blue = map(float, text.split(","))
    return red, green, blue


def circumstances() -> str:
    """When, of what commit and on what a benchmark runs."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit.strip()}, {hardware()}"
