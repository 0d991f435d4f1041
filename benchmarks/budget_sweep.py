"""Accuracy, exits and met budgets over HTTP, against the segments run by hand.

Starts a server on the zoo, posts test images as PNG one after another, and prints Markdown:

    python -m benchmarks.budget_sweep models/zoo/cifar100-msdnet/7 DATA --images 500
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles
from typing import Annotated, Any

import httpx
import typer
from tqdm import tqdm

from benchmarks.loading import chosen_rows, encode
from benchmarks.process import serving
from models.bundle.bundle import Bundle, load_bundle
from models.bundle.profile import hardware
from models.bundle.runner import SegmentRunner
from training.data import LabelledImages, open_images
from training.evaluation.evaluate import all_logits

BUDGETS_MS = (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10, 20)
PNG = {"content-type": "image/png"}


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: str,
    images: int = 500,
    rounds: int = 3,
) -> None:
    """Prints one row per query; every query is sent `rounds` times over all images."""
    bundle = load_bundle(path)
    test = open_images(data, "test")
    chosen = test.take(chosen_rows(len(test.labels), images))
    last_macs = bundle.manifest.exit_heads[-1].macs + sum(s.macs for s in bundle.manifest.segments)
    last = run_by_hand(bundle, chosen)
    queries = [f"min_exit={bundle.manifest.num_exits}"]
    queries += [f"operating_point={name}" for name in bundle.calibration.operating_points]
    queries += [f"threshold=1&latency_budget_ms={budget}" for budget in BUDGETS_MS]
    print(f"{images} test images, one connection, times asked: {rounds}, {hardware()}\n")
    print(
        "| query | top-1 % | mean exit | mean MACs, % of the last exit's | p50 ms | p99 ms | met % "
        "| refused |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with (
        serving(path.parent.parent) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        pngs = [encode(image) for image in chosen.images.numpy()]
        results: dict[str, list[list[Answer | None]]] = {query: [] for query in queries}
        for _ in range(rounds):
            for query in queries:
                results[query].append(ask(client, path.parent.name, query, pngs))
    for query, answers in results.items():
        print(row(query, [a for one in answers for a in one], chosen, last_macs))
    deepest = zip(results[queries[0]][0], last, strict=True)
    differing = sum(a is None or a.index != label for a, label in deepest)
    print(
        f"\n{differing} of {images} labels at the last exit differ from the segments run by hand."
    )


@dataclass(frozen=True)
class Answer:
    index: int
    exit: int
    macs: int
    total_ms: float
    met: bool


def ask(client: httpx.Client, model: str, query: str, pngs: list[bytes]) -> list[Answer | None]:
    """Posts every image once; None where a pause of the host spent the budget before its turn."""
    answers: list[Answer | None] = []
    for png in tqdm(pngs, query, leave=False):
        response = client.post(f"/v1/classify?{query}&model={model}", content=png, headers=PNG)
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            answers.append(None)
            continue
        said: dict[str, Any] = response.raise_for_status().json()
        cost = said["cost"]
        answers.append(
            Answer(
                said["index"], said["exit"], cost["macs"], cost["total_ms"], said["budget"]["met"]
            )
        )
    return answers


def row(query: str, said: list[Answer | None], images: LabelledImages, last_macs: int) -> str:
    """One query's line of the table."""
    labels = images.labels.tolist() * (len(said) // len(images))
    hits = [a.index == label for a, label in zip(said, labels, strict=True) if a is not None]
    answers = [a for a in said if a is not None]
    percentiles = quantiles([a.total_ms for a in answers], n=100)
    return (
        f"| `{query}` | {100 * mean(hits):.1f} | {mean(a.exit for a in answers):.2f} "
        f"| {100 * mean(a.macs for a in answers) / last_macs:.0f} "
        f"| {percentiles[49]:.2f} | {percentiles[98]:.2f} "
        f"| {100 * mean(a.met for a in answers):.1f} | {len(said) - len(answers)} |"
    )


def run_by_hand(bundle: Bundle, images: LabelledImages) -> list[int]:
    """The last exit's label for every image."""
    manifest = bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    *_, last = all_logits(runner, images.images.numpy(), lambda _: None)
    labels: list[int] = last.argmax(axis=1).tolist()
    return labels


if __name__ == "__main__":
    typer.run(main)
