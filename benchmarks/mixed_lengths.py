"""What texts of mixed lengths cost in one request, beside the same texts sorted by length.

    python -m benchmarks.mixed_lengths models/zoo/clinc150-text/2 TEXTS

The same texts are sent as JSON, `--batch` in each request, one request after the other: as they
come, then the shortest first, in turn. Each order is sent at `balanced`, and through all exits.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import httpx
import typer
from tqdm import tqdm

from benchmarks.contest import BundlePath, circumstances, offramp
from benchmarks.loading import traffic
from load.target import ROUTE
from models.bundle.bundle import load_bundle
from models.bundle.text import TextReader
from models.bundle.text_input import TextInput

DEPTHS = {"`balanced`": {}, "all exits": {"threshold": 1}}


def by_length(texts: Sequence[str], bundle: Path) -> list[str]:
    """The texts of fewest tokens first."""
    loaded = load_bundle(bundle)
    takes = loaded.manifest.input
    if not isinstance(takes, TextInput):
        raise typer.BadParameter(f"{bundle} takes no texts")
    lengths = [len(tokens.ids) for tokens in TextReader(loaded.tokenizer, takes).read(texts)]
    order = sorted(range(len(texts)), key=lengths.__getitem__)
    return [texts[row] for row in order]


def send(
    client: httpx.Client, texts: Sequence[str], batch: int, asked: Mapping[str, object]
) -> float:
    """Seconds until the last request is answered."""
    start = time.perf_counter()
    for first in range(0, len(texts), batch):
        client.post(ROUTE, json={**asked, "texts": texts[first : first + batch]}).raise_for_status()
    return time.perf_counter() - start


def main(path: BundlePath, data: str, texts: int = 1920, batch: int = 64, rounds: int = 10) -> None:
    """Prints a Markdown table: medians over the rounds, and the smallest and largest ratio."""
    print(f"{texts} texts, {batch} in a request, {rounds} rounds, {circumstances()}\n")
    print("| through | mixed, ms a request | sorted | mixed, times sorted |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place, offramp(path, Path(place)) as server:
        mixed = [file.read_text() for file in traffic(data, texts, Path(place)).files]
        orders = mixed, by_length(mixed, path)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for name, asked in DEPTHS.items():
                found = [
                    [send(client, order, batch, asked) for order in orders]
                    for _ in tqdm(range(rounds + 1), unit="round")
                ][1:]  # the first warms up
                ratios = [slow / fast for slow, fast in found]
                requests = -(-len(mixed) // batch)
                ours, theirs = (
                    1000 * median(times) / requests for times in zip(*found, strict=True)
                )
                print(
                    f"| {name} | {ours:.2f} | {theirs:.2f} | {median(ratios):.2f} "
                    f"({min(ratios):.2f} to {max(ratios):.2f}) |"
                )


if __name__ == "__main__":
    typer.run(main)
