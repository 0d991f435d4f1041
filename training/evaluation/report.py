"""A report for people: Markdown and plots."""

from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.evaluate import ExitResult, Report


def markdown(report: Report) -> str:
    """The report as Markdown tables."""
    parts = [
        f"# {report.model} version {report.version} on {report.data}, {report.split} split",
        f"{report.num_rows} rows, measured on the exported segments through the served stop rule; "
        "docs/evaluation.md says what each column means.",
        *judgement(report),
        *measure(report),
        *report.notes,
        exits_table(report),
        confidence_table(report),
        falls_table(report),
        points_table(report),
    ]
    return "\n\n".join(parts) + "\n"


RIGHT = {
    "labels": "where it equals the label",
    "last_exit": "where it equals the last exit's: there are no labels",
}


def judgement(report: Report) -> list[str]:
    """Says how answers were judged, unless labels alone judged them."""
    if (report.judged_by, report.points_judged_by) == ("labels", "labels"):
        return []
    return [
        f"An answer counts as right {RIGHT[report.judged_by]}. The operating points were chosen "
        "and certified on other rows, where an answer counted as right "
        f"{RIGHT[report.points_judged_by]}."
    ]


def measure(report: Report) -> list[str]:
    """Says what thresholds are compared with, unless it is the largest probability."""
    if report.confidence == "max_probability":
        return []
    return [
        "Rows stop early by the margin between the two largest probabilities; ECE and AUROC are of "
        "the largest one."
    ]


def exits_table(report: Report) -> str:
    """Accuracy of every exit: alone, in budget mode and in the running ensemble."""
    rows = []
    for e in report.exits:
        chosen = report.exits[e.budget_exit - 1]
        rows.append(
            [
                str(e.exit),
                f"{e.macs / 1e6:.2f}",
                f"{e.macs_all_heads / 1e6:.2f}",
                *map(percent, (e.top1, e.top5, e.agreement)),
                str(e.budget_exit),
                *map(percent, (chosen.top1, chosen.top5, e.ensemble_top1, e.ensemble_top5)),
            ]
        )
    return table(
        "exit | M MACs | M MACs, all heads | top-1 % | top-5 % | agreement % "
        "| budget mode: exit | top-1 % | top-5 % | ensemble top-1 % | ensemble top-5 %",
        rows,
    )


def confidence_table(report: Report) -> str:
    """Calibration and ranking of every exit, without and with its calibration temperature."""
    return table(
        "exit | ECE %, uncalibrated | ECE % | failure AUROC %, uncalibrated | failure AUROC %",
        [
            [
                str(e.exit),
                *map(percent, (e.uncalibrated.ece, e.calibrated.ece)),
                *map(percent, (e.uncalibrated.auroc, e.calibrated.auroc)),
            ]
            for e in report.exits
        ],
    )


def falls_table(report: Report) -> str:
    """Non-monotonicity between exits."""
    limits = " | ".join(f"{fall.more_than:g}" for fall in report.falls)
    return table(
        f"true-class probability falls by more than | {limits}",
        [["share of rows %", *(percent(fall.share) for fall in report.falls)]],
    )


def points_table(report: Report) -> str:
    """The operating points: measured accuracy and cost beside their promises."""
    last = report.exits[-1]
    rows = []
    for name, point in report.operating_points.items():
        promise = report.certificates.get(name)
        rows.append(
            [
                name,
                percent(point.accuracy),
                percent(last.top1 - point.accuracy),
                percent(promise.max_accuracy_drop if promise else None),
                percent(1 - point.agreement),
                percent(promise.max_disagreement if promise else None),
                f"{point.mean_macs / 1e6:.2f}",
                f"{100 * point.mean_macs / last.macs:.0f}",
                " ".join(f"{100 * share:.1f}" for share in point.exit_shares),
            ]
        )
    return table(
        "operating point | top-1 % | points lost | points lost, certified at most | answers that "
        "differ % | differ %, certified at most | mean M MACs | % of the last exit's MACs "
        "| share per exit %",
        rows,
    )


def table(head: str, rows: list[list[str]]) -> str:
    """A Markdown table; `head` is its first line without the outer bars."""
    rule = "---|" * (head.count("|") + 1)
    return "\n".join([f"| {head} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rows)])


def percent(share: float | None) -> str:
    """A share in percent with two decimals, a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2f}"


def plot(report: Report, path: Path) -> None:
    """Accuracy against MACs, anytime and budgeted; non-monotonicity; reliability per exit."""
    figure = Figure(figsize=(14, 8), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 2))
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    anytime, budgeted, falls = top.subplots(1, 3, width_ratios=(3, 3, 2))
    budgeted.sharey(anytime)
    plot_anytime(report, anytime)
    plot_budgeted(report, budgeted)
    plot_falls(report, falls)
    bottom.suptitle(
        "Reliability: accuracy (%) against largest probability (%), uncalibrated (grey), calibrated"
    )
    panels = bottom.subplots(1, len(report.exits), sharey=True, squeeze=False)[0]
    for axes, e in zip(panels, report.exits, strict=True):
        plot_reliability(e, axes)
    figure.savefig(path, dpi=110)


def plot_anytime(report: Report, axes: Axes) -> None:
    """Accuracy of exits alone, of budget mode and of the running ensemble against MACs."""
    macs = [e.macs / 1e6 for e in report.exits]
    all_heads = [e.macs_all_heads / 1e6 for e in report.exits]
    in_budget = [100 * report.exits[e.budget_exit - 1].top1 for e in report.exits]
    axes.plot(macs, [100 * e.top1 for e in report.exits], "o-", label="exit alone")
    axes.step(macs, in_budget, "k:", where="post", label="budget mode: best validated exit")
    ensemble = [100 * e.ensemble_top1 for e in report.exits]
    axes.plot(all_heads, ensemble, "s--", label="ensemble of exits so far")
    axes.set(title="Anytime prediction", xlabel="M MACs per row", ylabel="top-1 accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()


def plot_budgeted(report: Report, axes: Axes) -> None:
    """Accuracy against mean MACs, for one threshold and for the operating points."""
    last = report.exits[-1]
    curve = [(p.mean_macs / 1e6, 100 * p.accuracy) for p in report.curve]
    axes.plot(*zip(*curve, strict=True), "-", label="one threshold, all exits consulted")
    for marker, (name, point) in zip(cycle("Dsov"), report.operating_points.items(), strict=False):
        where = point.mean_macs / 1e6, 100 * point.accuracy
        axes.plot(*where, marker, fillstyle="none", markersize=8, label=name)
    axes.plot(last.macs / 1e6, 100 * last.top1, "k*", label="last exit, always")
    axes.set(title="Budgeted batch classification", xlabel="mean M MACs per row")
    axes.grid(alpha=0.3)
    axes.legend()


def plot_falls(report: Report, axes: Axes) -> None:
    """How often the true class loses probability between exits."""
    limits = [f"{fall.more_than:g}" for fall in report.falls]
    bars = axes.bar(limits, [100 * fall.share for fall in report.falls], color="C7")
    axes.bar_label(bars, fmt="%.0f")
    axes.set(
        title="Rows (%) whose true class loses\nprobability from one exit to a later one",
        xlabel="by more than",
    )


def plot_reliability(e: ExitResult, axes: Axes) -> None:
    """One exit's reliability diagram, with ECE and failure-prediction AUROC."""
    axes.plot([0, 100], [0, 100], "k:", linewidth=1)
    for result, colour in ((e.uncalibrated, "C7"), (e.calibrated, "C0")):
        confidences, accuracies, _ = zip(*result.reliability, strict=True)
        points = [100 * c for c in confidences], [100 * a for a in accuracies]
        axes.plot(*points, "o-", color=colour, markersize=3)
    before, after = (100 * r.ece for r in (e.uncalibrated, e.calibrated))
    title = f"exit {e.exit}\nECE {before:.1f} → {after:.1f}"
    if e.calibrated.auroc is not None:
        title += f"\nAUROC {100 * e.calibrated.auroc:.1f}"
    axes.set_title(title, fontsize="medium")
    axes.set_aspect("equal")


def write(report: Report, directory: Path) -> None:
    """Writes report.json, report.md and curves.png into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(report.model_dump_json(indent=1) + "\n")
    (directory / "report.md").write_text(markdown(report))
    plot(report, directory / "curves.png")
