"""A report for people: Markdown and plots."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from training.evaluate import Report


def markdown(report: Report) -> str:
    """The report as Markdown tables."""
    lines = [
        f"# {report.model} version {report.version} on {report.data}, {report.split} split",
        "",
        f"{report.num_rows} rows, measured on the exported segments through the served stop rule.",
        "",
        "| exit | M MACs | M MACs, all heads | top-1 % | top-5 % | ensemble top-1 % "
        "| ensemble top-5 % | ECE % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for e in report.exits:
        shares = (e.top1, e.top5, e.ensemble_top1, e.ensemble_top5, e.ece)
        macs = f"{e.macs / 1e6:.2f} | {e.macs_all_heads / 1e6:.2f}"
        lines.append(
            f"| {e.exit} | {macs} | " + " | ".join(f"{100 * s:.2f}" for s in shares) + " |"
        )
    lines += [
        "",
        "| operating point | top-1 % | mean M MACs | of the last exit's | share per exit % |",
        "|---|---|---|---|---|",
    ]
    full = report.exits[-1].macs
    for name, point in report.operating_points.items():
        shares_text = " ".join(f"{100 * share:.1f}" for share in point.exit_shares)
        lines.append(
            f"| {name} | {100 * point.accuracy:.2f} | {point.mean_macs / 1e6:.2f} "
            f"| {100 * point.mean_macs / full:.0f}% | {shares_text} |"
        )
    return "\n".join(lines) + "\n"


def plot(report: Report, path: Path) -> None:
    """Accuracy against MACs, anytime and budgeted, and a reliability diagram per exit."""
    num_exits = len(report.exits)
    figure = plt.figure(figsize=(12, 7), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 2))
    top, bottom = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    anytime, budgeted = top.subplots(1, 2, sharey=True).flat
    macs = [e.macs / 1e6 for e in report.exits]
    all_heads = [e.macs_all_heads / 1e6 for e in report.exits]
    anytime.plot(macs, [100 * e.top1 for e in report.exits], "o-", label="exit alone")
    ensemble = [100 * e.ensemble_top1 for e in report.exits]
    anytime.plot(all_heads, ensemble, "s--", label="ensemble of exits so far")
    anytime.set(title="Anytime prediction", xlabel="M MACs per row", ylabel="top-1 accuracy (%)")
    curve = [(p.mean_macs / 1e6, 100 * p.accuracy) for p in report.curve]
    budgeted.plot(*zip(*curve, strict=True), "-", label="one threshold, all exits consulted")
    for name, point in report.operating_points.items():
        budgeted.plot(point.mean_macs / 1e6, 100 * point.accuracy, "D", label=name)
    budgeted.plot(macs[-1], 100 * report.exits[-1].top1, "k*", label="last exit, always")
    budgeted.set(title="Budgeted batch classification", xlabel="mean M MACs per row")
    for axes in (anytime, budgeted):
        axes.grid(alpha=0.3)
        axes.legend()
    bottom.suptitle("Reliability: accuracy (%) against calibrated confidence (%)")
    panels = bottom.subplots(1, num_exits, sharey=True, squeeze=False)[0]
    for axes, e in zip(panels, report.exits, strict=True):
        confidences, accuracies, _ = zip(*e.reliability, strict=True)
        axes.plot([0, 100], [0, 100], "k:", linewidth=1)
        axes.plot([100 * c for c in confidences], [100 * a for a in accuracies], "o-", markersize=3)
        axes.set(title=f"exit {e.exit}, ECE {100 * e.ece:.1f}", aspect="equal")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(report: Report, directory: Path) -> None:
    """Writes report.json, report.md and curves.png into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(report.model_dump_json(indent=1) + "\n")
    (directory / "report.md").write_text(markdown(report))
    plot(report, directory / "curves.png")
