"""What attached exits give, with and without labels.

    python -m benchmarks.attached efficientnet.onnx DATA --mean 0.498039 --std 0.501961

The test photos of DATA need labels. Prints what every exit and `balanced` give for each seed; how
many test photos the last exit answers as onnxruntime does on the file itself; and in what share of
1,000 draws of certifying rows the certificate of `certified` holds.
"""

import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.confidence import Floats
from models.bundle.profile import hardware
from models.bundle.runner import SegmentRunner
from training.attaching.answers import Original
from training.attaching.attach import attach
from training.attaching.order import Order
from training.attaching.passes import logits_of
from training.attaching.photos import Photos, open_photos
from training.attaching.read import Options, read
from training.evaluation.evaluate import Report
from training.evaluation.report import table
from training.exporting.calibrate import agreement_view, certified, halves
from training.exporting.operating_points import tuned_candidates
from training.origin import git_commit

DRAWS = 1000
CHUNK = 50


def same_answers(order: Order, logits: Floats, photos: Photos) -> int:
    """Test photos that the last exit answers as the file itself does, by onnxruntime."""
    original = Original(read(order.model, order.options))
    found = 0
    for start in range(0, photos.num_rows, CHUNK):
        rows = np.arange(start, min(start + CHUNK, photos.num_rows))
        answers = original(photos.decode(rows)).argmax(axis=1)
        found += int((answers == logits[rows].argmax(axis=1)).sum())
    return found


def held(bundle: Bundle, logits: list[Floats], epsilon: float, seed: int) -> float:
    """Share of draws of certifying rows in which `certified` keeps its promise.

    The test photos are the whole truth here: half of them tunes, draws of the other half certify,
    and the promise is judged on that half.
    """
    temperatures = [e.calibration_temperature for e in bundle.calibration.exits]
    manifest = bundle.manifest
    graphs = manifest.segments, manifest.exit_heads
    view = agreement_view(logits, temperatures, *graphs, bundle.calibration.confidence)
    tuning, rest = halves(view.num_rows)
    front, truth = tuned_candidates(view.take(tuning)), view.take(rest)
    generator = np.random.default_rng(seed)
    num_rows = len(halves(bundle.calibration.num_rows)[1])
    kept = 0
    for _ in range(DRAWS):
        drawn = truth.take(generator.integers(0, truth.num_rows, num_rows))
        thresholds, _ = certified(drawn, front, epsilon)
        kept += bool(truth.losses(thresholds).mean() <= epsilon)
    return kept / DRAWS


def row(seed: int, kind: str, bundle: Bundle, seconds: float) -> list[str]:
    """What one bundle's report says."""
    report = Report.model_validate_json((bundle.path / "report.json").read_text())
    point, last = report.operating_points["balanced"], report.exits[-1]
    return [
        str(seed),
        kind,
        " ".join(f"{100 * e.macs / last.macs:.0f}" for e in report.exits),
        " ".join(f"{100 * e.top1:.1f}" for e in report.exits),
        f"{100 * point.accuracy:.2f}",
        f"{100 * (last.top1 - point.accuracy):.2f}",
        f"{100 * (1 - point.agreement):.2f}",
        f"{100 * point.mean_macs / last.macs:.1f}",
        f"{seconds:.0f}",
    ]


def both(order: Order, rows: list[list[str]]) -> Bundle:
    """Heads that saw no labels, and at the same cuts heads that did; returns the former."""
    start = time.monotonic()
    bundle = load_bundle(attach(order))
    rows.append(row(order.seed, "without labels", bundle, time.monotonic() - start))
    cuts = tuple(segment.outputs[0].name for segment in bundle.manifest.segments[:-1])
    labelled = replace(order, version=order.version + 1, uses_labels=True, tensors=cuts)
    start = time.monotonic()
    with_labels = load_bundle(attach(labelled))
    rows.append(row(order.seed, "with labels", with_labels, time.monotonic() - start))
    return bundle


def main(
    model: Path,
    data: str,
    mean: Annotated[float | None, typer.Option(help="Of pixels in [0, 1].")] = None,
    std: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    seeds: int = 3,
    exits: Annotated[int | None, typer.Option(help="As many as pay by default.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where features are kept.")] = None,
) -> None:
    """Prints Markdown: a row for each seed and kind of heads."""
    means, stds = (None if value is None else (value,) for value in (mean, std))
    options = Options(mean=means, std=stds)
    print(f"{date.today()}, {git_commit()}, {hardware()}\n")
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as place:
        for seed in range(seeds):
            order = Order(
                model=model,
                data=data,
                name="attached",
                version=2 * seed + 1,
                zoo=Path(place),
                options=options,
                num_exits=exits,
                uses_labels=False,
                cache=cache or Path(place) / "cache",
                seed=seed,
            )
            bundle = both(order, rows)
            manifest = bundle.manifest
            runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
            photos = open_photos(data, "test", manifest.image_input)
            logits = logits_of(runner, photos, "asking every exit")
            share = held(bundle, logits, order.max_disagreement, seed)
            print(f"seed {seed}: `certified` keeps its promise in {100 * share:.1f} % of draws")
            if seed == 0:
                same = same_answers(order, logits[-1], photos)
                print(f"the last exit answers {same} of {photos.num_rows} photos as the file does")
    head = "exits, % of MACs | top-1 % | balanced, top-1 % | points lost | answers that differ %"
    print("\n" + table(f"seed | heads | {head} | % of MACs | s", rows))


if __name__ == "__main__":
    typer.run(main)
