"""How often operating points lose more than they may, by the standard errors kept to spare.

    python -m benchmarks.operating_points models/zoo/cifar100-msdnet/7 DATA

Rows are drawn at random to tune, as many as an export of CIFAR-100 tunes on; all others judge.
Each draw is made twice: by labels, and by the last exit's answers, as for a network without labels;
then points lost are answers that differ. The measure of confidence is an export's.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, get_args

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.confidence_measures import HeldOut, held_out
from models.bundle.bundle import Bundle, load_bundle
from models.bundle.calibration import JudgedBy
from models.bundle.confidence import Measure
from training.exporting.calibrate import (
    ACCURACY_DROPS,
    DISAGREEMENTS,
    agreement_temperatures,
    agreement_view,
    best_search,
    fit_temperature,
    split_view,
)
from training.exporting.operating_points import STANDARD_ERRORS, cheapest

TUNING_ROWS = 1250
TO_SPARE = (0.0, 1.0, 2.0, STANDARD_ERRORS)
LIMITS: Mapping[JudgedBy, Mapping[str, float]] = {
    "labels": ACCURACY_DROPS,
    "last_exit": DISAGREEMENTS,
}
TOLERANCE = 0.0005
"""A point that loses so much more than its limit still kept it: 5 of 10,000 rows."""


class Setting(NamedTuple):
    """A row of the table."""

    judged_by: JudgedBy
    standard_errors: float
    point: str


class Outcome(NamedTuple):
    """What a point lost, a share of the rows, and its mean MACs as a share of the last exit's."""

    lost: float
    macs: float
    measure: Measure


def outcomes(bundle: Bundle, rows: HeldOut, order: NDArray[np.int64]) -> dict[Setting, Outcome]:
    """What operating points that the first rows of `order` fit do on the others."""
    graphs = bundle.manifest.segments, bundle.manifest.exit_heads
    tuning, judging = order[:TUNING_ROWS], order[TUNING_ROWS:]
    temperatures = [fit_temperature(z[tuning], rows.labels[tuning]) for z in rows.logits]
    views = {
        "labels": partial(split_view, rows.logits, temperatures, rows.labels, *graphs),
        "last_exit": partial(
            agreement_view, rows.logits, agreement_temperatures(rows.logits, tuning), *graphs
        ),
    }
    found = {}
    for judged_by, limits in LIMITS.items():
        fitted = best_search(views[judged_by], tuning, limits, get_args(Measure))
        tune, judge = fitted.split.take(tuning), fitted.split.take(judging)
        paths = [candidate.thresholds for candidate in fitted.front]
        last_macs = judge.segment_macs.sum() + judge.head_macs[-1]
        for standard_errors in TO_SPARE:
            for point, limit in limits.items():
                thresholds = cheapest(tune, paths, limit, standard_errors).thresholds
                found[Setting(judged_by, standard_errors, point)] = Outcome(
                    lost=float(judge.losses(thresholds).mean()),
                    macs=float(judge.candidate(thresholds).mean_macs / last_macs),
                    measure=fitted.measure,
                )
    return found


def table(results: Mapping[Setting, Sequence[Outcome]]) -> str:
    """A row per setting: means, a standard deviation, and how often the point kept its limit."""
    lines = [
        "| judged by | standard errors | operating point | points lost | kept % | % of MACs "
        "| draws with the margin % |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, found in results.items():
        lost, macs = (100 * np.array([getattr(o, key) for o in found]) for key in ("lost", "macs"))
        by_margin = np.mean([outcome.measure == "margin" for outcome in found])
        limit = LIMITS[setting.judged_by][setting.point]
        kept = (lost <= 100 * (limit + TOLERANCE)).mean()
        lines.append(
            f"| {setting.judged_by} | {setting.standard_errors:g} | {setting.point} "
            f"| {lost.mean():.2f} ± {lost.std():.2f} | {100 * kept:.0f} "
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
    results: dict[Setting, list[Outcome]] = {}
    generator = np.random.default_rng(0)
    for _ in range(draws):
        order = generator.permutation(len(rows.labels))
        for setting, outcome in outcomes(bundle, rows, order).items():
            results.setdefault(setting, []).append(outcome)
    print(table(results))


if __name__ == "__main__":
    typer.run(main)
