"""A network of real size: probes while it is saturated, and requests per second beside a bare loop.

    python -m benchmarks.large

The ImageNet MSDNet of 5 exits at 224 pixels, untrained: every exit is consulted, the last answers.
JPEG in. In each round the bare loop runs alone, then the server is asked over many connections, and
ten times a second for `/healthz` over a new connection, which any of its processes may take.
"""

import http.client
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import numpy as np
import torch
import typer
from tqdm import tqdm

from benchmarks.bare import bare_rate
from benchmarks.contest import SETTINGS, circumstances, offramp
from benchmarks.loading import Traffic, encode, written
from benchmarks.untrained import random_images, write_bundle
from load.target import ROUTE
from models.nets.presets import build
from training.data import LabelledImages

NUM_IMAGES = 32
PAUSE_S = 0.1


def main(
    net: str = "msdnet-imagenet",
    pixels: int = 224,
    classes: int = 1000,
    connections: int = 32,
    rounds: int = 3,
    seconds: int = 20,
) -> None:
    """Prints a Markdown table: medians over the rounds, and each round's numbers."""
    with tempfile.TemporaryDirectory() as directory:
        torch.manual_seed(0)
        place = Path(directory) / "made" / "large" / "1"
        built = build(net, (pixels, pixels, 3), classes)
        bundle = write_bundle(built, pixels, classes, place)
        images = random_images(pixels, NUM_IMAGES)
        files = written([encode(image, "JPEG") for image in images], Path(directory), "jpeg")
        labels = torch.zeros(NUM_IMAGES, dtype=torch.int64)
        asked = Traffic(LabelledImages(torch.from_numpy(images), labels, ()), files)
        print(f"{net}, {pixels} pixels, {connections} connections, rounds: {rounds} of {seconds} s")
        print(f"{circumstances()}. {SETTINGS}\n")
        with offramp(bundle, Path(directory)) as server:
            deepest = asked.ask(server.url + ROUTE).mean_exit
            if deepest < built.num_exits:
                raise SystemExit(f"answers came at exit {deepest:.2f} on average, not at the last")
            asked.closed_loop(server.url + ROUTE, connections, 2)
            bare, served, probes = [], [], []
            for _ in tqdm(range(rounds), unit="round"):
                bare.append(bare_rate(bundle, images, seconds))
                with Probing(server.url) as probing:
                    result = asked.closed_loop(server.url + ROUTE, connections, seconds)
                served.append(result.rate)
                probes.append(1000 * float(np.quantile(probing.taken_s, 0.99)))
    shares = [rate / alone for rate, alone in zip(served, bare, strict=True)]
    print("| | median | rounds |")
    print("|---|---|---|")
    print(row("bare loop, images/s", bare))
    print(row("Offramp, requests/s", served))
    print(row("Offramp's, of the bare loop", shares))
    print(row("`/healthz`, p99 ms", probes))


def row(name: str, values: list[float]) -> str:
    return f"| {name} | {median(values):.2f} | {', '.join(f'{v:.2f}' for v in values)} |"


class Probing(threading.Thread):
    """Asks `/healthz` until the context is left; notes how long each answer takes."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.taken_s: list[float] = []
        self._address = urlsplit(url).netloc
        self._over = threading.Event()

    def __enter__(self) -> "Probing":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(PAUSE_S):
            start = time.monotonic()
            with closing(http.client.HTTPConnection(self._address, timeout=60)) as connection:
                connection.request("GET", "/healthz")
                connection.getresponse().read()
            self.taken_s.append(time.monotonic() - start)


if __name__ == "__main__":
    typer.run(main)
