"""How often operating points lose more than they may, by what the labels weigh in fitting them.

    python -m benchmarks.operating_points models/zoo/cifar100-msdnet/5 DATA

Rows are drawn at random to tune, as many as an export of CIFAR-100 tunes on; all others judge.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, get_args

import numpy as np
import typer

from benchmarks.confidence_measures import HeldOut, held_out
from models.bundle.bundle import Bundle, load_bundle
from models.bundle.confidence import Measure
from training.exporting.calibrate import (
    ACCURACY_DROPS,
    best_search,
    fit_temperature,
    split_view,
)
from training.exporting.operating_points import VERDICT_SHARE, SplitView

TUNING_ROWS = 1250
SHARES = (0.5, 0.25, VERDICT_SHARE, 0.0)
TOLERANCE = 0.0005
"""A point that loses so much more than it may still kept its promise: 5 of 10,000 rows."""


class Outcome(NamedTuple):
    """What a point lost, a share of the rows, and its mean MACs as a share of the last exit's."""

    lost: float
    macs: float
    measure: Measure


def outcomes(
    bundle: Bundle, tune: HeldOut, judge: HeldOut, verdict_share: float
) -> dict[str, Outcome]:
    """What operating points that were fitted on `tune` do on `judge`."""
    graphs = bundle.manifest.segments, bundle.manifest.exit_heads
    temperatures = [fit_temperature(z, tune.labels) for z in tune.logits]

    def view(part: HeldOut, measure: Measure) -> SplitView:
        return split_view(part.logits, temperatures, part.labels, *graphs, measure, verdict_share)

    rows = np.arange(len(tune.labels))
    fitted = best_search(partial(view, tune), rows, ACCURACY_DROPS, get_args(Measure))
    judged = view(judge, fitted.measure)
    last_macs = judged.segment_macs.sum() + judged.head_macs[-1]
    found = {}
    for name, candidate in fitted.chosen.items():
        given = judged.candidate(candidate.thresholds)
        lost = float(judged.losses(candidate.thresholds).mean())
        found[name] = Outcome(lost, float(given.mean_macs / last_macs), fitted.measure)
    return found


def table(results: Mapping[tuple[float, str], Sequence[Outcome]]) -> str:
    """A row per share and operating point: means, a standard deviation, and how often it kept."""
    lines = [
        "| weight of the label | operating point | points lost | kept % | % of MACs "
        "| draws with the margin % |",
        "|---|---|---|---|---|---|",
    ]
    for (share, name), found in results.items():
        lost, macs = (100 * np.array([getattr(o, key) for o in found]) for key in ("lost", "macs"))
        by_margin = np.mean([outcome.measure == "margin" for outcome in found])
        kept = (lost <= 100 * (ACCURACY_DROPS[name] + TOLERANCE)).mean()
        lines.append(
            f"| {share:g} | {name} | {lost.mean():.2f} ± {lost.std():.2f} | {100 * kept:.0f} "
            f"| {macs.mean():.1f} | {100 * by_margin:.0f} |"
        )
    return "\n".join(lines)


def main(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    data: Annotated[str, typer.Argument(help="As for train: what the bundle learned from.")],
    draws: Annotated[int, typer.Option(min=1)] = 30,
) -> None:
    """Prints a Markdown table."""
    bundle = load_bundle(path)
    rows = held_out(bundle, data)
    results: dict[tuple[float, str], list[Outcome]] = {}
    generator = np.random.default_rng(0)
    for _ in range(draws):
        order = generator.permutation(len(rows.labels))
        tune, judge = rows.take(order[:TUNING_ROWS]), rows.take(order[TUNING_ROWS:])
        for share in SHARES:
            for name, outcome in outcomes(bundle, tune, judge, share).items():
                results.setdefault((share, name), []).append(outcome)
    print(table(results))


if __name__ == "__main__":
    typer.run(main)
