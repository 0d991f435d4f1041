"""What the paper's experiments gave, beside what the paper reports: Markdown and plots."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.evaluation.measures import budget_exits
from training.paper.published import (
    ANYTIME_MODE,
    BUDGET_MODE,
    FINDINGS,
    PublishedTable,
    counterpart,
)
from training.paper.reproduce import PAPERS_METHODS, RunResult

Values = NDArray[np.float64]
Measure = Callable[[RunResult], list[float]]


def budget_mode_top5(result: RunResult) -> list[float]:
    """Test top-5 where each exit's cost is the budget, in percent.

    The answer is that of the exit with the best selection accuracy among those that fit, as in
    the paper's Table 2.
    """
    chosen = budget_exits([e.macs for e in result.exits], selection_top1(result))
    return [100 * result.exits[exit - 1].top5 for exit in chosen]


def anytime_mode_top5(result: RunResult) -> list[float]:
    """Test top-5 of the ensemble of the exits so far, in percent, as in the paper's Table 6."""
    return [100 * e.ensemble_top5 for e in result.exits]


def exit_top1(result: RunResult) -> list[float]:
    """Test top-1 of each exit alone, in percent; the paper reports none."""
    return [100 * e.top1 for e in result.exits]


def exit_top5(result: RunResult) -> list[float]:
    """Test top-5 of each exit alone, in percent."""
    return [100 * e.top5 for e in result.exits]


def selection_top1(result: RunResult) -> list[float]:
    """Top-1 of each exit on the selection split, in percent; nothing where there is none."""
    return [100 * e.selection_top1 for e in result.exits if e.selection_top1 is not None]


def mean_and_interval(values: Values) -> tuple[Values, Values]:
    """Mean over runs, the first axis, and 1.96 standard errors of it; zero for a single run."""
    num_runs = len(values)
    if num_runs == 1:
        return values[0], np.zeros_like(values[0])
    return values.mean(axis=0), 1.96 * values.std(axis=0, ddof=1) / num_runs**0.5


def by_method(results: Sequence[RunResult], measure: Measure) -> dict[str, Values]:
    """(runs, exits) of a measure for every method, runs in the order of their seeds."""
    methods = dict.fromkeys(r.method for r in results)
    return {
        method: np.array([measure(r) for r in results if r.method == method]) for method in methods
    }


def markdown(name: str, recipe: str, hardware: str, results: Sequence[RunResult]) -> str:
    """The tables of one experiment."""
    first = results[0]
    seeds = {method: len(v) for method, v in by_method(results, exit_top1).items()}
    commits = ", ".join(sorted({r.git_commit[:12] for r in results}))
    lines = [
        f"# {title_of(name, recipe, first)}",
        "",
        f"{images_of(first)} {first.net}, {first.epochs} epochs; runs: "
        + ", ".join(f"{method} {n}" for method, n in seeds.items())
        + f". Trained at commit {commits}. Test split, exported segments; "
        f"tables made on {hardware}. Means over runs ± 1.96 standard errors.",
        "",
    ]
    changes_only = not any(r.method in PAPERS_METHODS for r in results)
    if changes_only or not selection_top1(first):
        lines += ["The paper has no such experiment.", ""]
    elif recipe != "paper":
        lines += [
            f"**A {recipe} recipe**: not the paper's network (msdnet-11) nor its 300 epochs, so "
            "levels are not comparable; the direction and size of the differences are. The "
            "paper's numbers are those of the exit at the same place among its eleven.",
            "",
        ]
    if name in FINDINGS:
        lines += [f"The paper: {FINDINGS[name]}.", ""]
    if changes_only:
        lines += ["## Top-1 %", "", *method_table(results, exit_top1), ""]
    else:
        for title, measure, paper in measures_of(first):
            rows = table(results, measure, paper, first.images_per_class)
            lines += [f"## {title}", "", *rows, ""]
    if selection_top1(first):
        title = "## Top-1 % on the held-out training images that choose the epoch"
        lines += [title, "", *method_table(results, selection_top1), ""]
    return "\n".join(lines)


def title_of(name: str, recipe: str, result: RunResult) -> str:
    """The paper's experiments have recipes, the others only their own."""
    return f"{name}, {recipe} recipe" if selection_top1(result) else name


def images_of(result: RunResult) -> str:
    """What a run learned from, in a sentence."""
    number = result.images_per_class
    if selection_top1(result):
        assert number is not None
        return (
            f"CIFAR100({number}): {number - 50} images per class to train on and 50 to select the "
            "best epoch with."
        )
    labelled = (
        "Every training image has a label"
        if number is None
        else (
            f"{number} training images per class have labels; semi-supervised runs learn from the "
            "others, too"
        )
    )
    return f"{labelled}. The last epoch is taken."


def measures_of(result: RunResult) -> list[tuple[str, Measure, PublishedTable]]:
    """Titles of the tables, what stands in them, and the paper's numbers for it."""
    alone = ("Top-1 % of each exit alone", exit_top1, PublishedTable())
    if not selection_top1(result):
        return [("Top-5 % of each exit alone", exit_top5, {}), alone]
    return [
        ("Top-5 %, budget mode (the paper's Table 2)", budget_mode_top5, BUDGET_MODE),
        ("Top-5 %, anytime mode (the paper's Table 6)", anytime_mode_top5, ANYTIME_MODE),
        alone,
    ]


def method_table(results: Sequence[RunResult], measure: Measure) -> list[str]:
    """One row per method: each exit, their mean, and the mean's gain over the first method."""
    values = by_method(results, measure)
    baseline = next(iter(values))
    exits = [f"exit {exit}" for exit in range(1, len(results[0].exits) + 1)]
    head = ["method", "runs", *exits, "mean", f"over {baseline}"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, accuracy in values.items():
        num_runs = len(accuracy)
        columns = np.column_stack([accuracy, accuracy.mean(axis=1)])
        num_pairs = min(num_runs, len(values[baseline]))
        gains = (accuracy[:num_pairs] - values[baseline][:num_pairs]).mean(axis=1, keepdims=True)
        cells = [method, str(num_runs)]
        for mean, interval in zip(*mean_and_interval(columns), strict=True):
            cells.append(with_interval(f"{mean:.2f}", interval, num_runs))
        (gain,), (interval,) = mean_and_interval(gains)
        cells.append(with_interval(f"{gain:+.2f}", interval, num_pairs))
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def table(
    results: Sequence[RunResult],
    measure: Measure,
    paper: PublishedTable,
    images_per_class: int | None,
) -> list[str]:
    """One row per exit; every method with the paper's number, and its gain over the first one.

    Gains are paired by seed: methods share their images, not their intervals.
    """
    values = by_method(results, measure)
    published = {} if images_per_class is None else paper.get(images_per_class, {})
    baseline, *others = values
    head = ["exit", "M MACs"]
    for method in values:
        head += [method, "paper"] if method in published else [method]
    head += [f"{method} over {baseline}" for method in others]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    statistics = {method: mean_and_interval(v) for method, v in values.items()}
    for i, exit in enumerate(results[0].exits):
        cells = [str(i + 1), f"{exit.macs / 1e6:.2f}"]
        its_exit = counterpart(i + 1, len(results[0].exits))
        for method, (mean, interval) in statistics.items():
            cells.append(with_interval(f"{mean[i]:.2f}", interval[i], len(values[method])))
            if method in published:
                cells.append(f"{published[method][its_exit - 1]:.1f}")
        for method in others:
            num_pairs = min(len(values[method]), len(values[baseline]))
            gain, interval = mean_and_interval(
                values[method][:num_pairs] - values[baseline][:num_pairs]
            )
            cells.append(with_interval(f"{gain[i]:+.2f}", interval[i], num_pairs))
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def with_interval(mean: str, interval: float, num_runs: int) -> str:
    """A mean with its interval; a single run has none."""
    return mean if num_runs == 1 else f"{mean} ± {interval:.2f}"


def plot(name: str, recipe: str, results: Sequence[RunResult], path: Path) -> None:
    """Top-5 accuracy against MACs with intervals, as in the paper's figures."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    first = results[0]
    alone = ("Budget mode", budget_mode_top5) if selection_top1(first) else ("Each exit", exit_top5)
    macs_of_all = [e.macs_all_heads for e in first.exits]
    for axes, title, measure, macs in (
        (panels[0], *alone, [e.macs for e in first.exits]),
        (panels[1], "Ensemble of the exits so far", anytime_mode_top5, macs_of_all),
    ):
        for method, values in by_method(results, measure).items():
            mean, interval = mean_and_interval(values)
            label = f"{method} ({len(values)} {'run' if len(values) == 1 else 'runs'})"
            axes.errorbar(np.array(macs) / 1e6, mean, interval, marker="o", capsize=3, label=label)
        axes.set(title=title, xlabel="M MACs per image")
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    panels[0].set_ylabel("top-5 accuracy (%)")
    title = title_of(name, recipe, first)
    figure.suptitle(f"{title} ({first.net}, {first.epochs} epochs)")
    figure.savefig(path, dpi=110)
