"""The dashboards drawn by matplotlib from what Prometheus answers, where there is no Grafana."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter, StrMethodFormatter

mpl.use("Agg")
COLUMNS, COLUMN_INCHES, ROW_INCHES = 24, 0.8, 0.42
LEGEND_ROWS = 1.2
LONG_NAME = 14
HEADROOM = 1.05
FORMATTERS = {
    "percentunit": PercentFormatter(1),
    "s": EngFormatter("s"),
    "bytes": EngFormatter("B"),
    "joule": EngFormatter("J"),
    "watt": EngFormatter("W"),
    "reqps": StrMethodFormatter("{x:g} req/s"),
    "ops": StrMethodFormatter("{x:g} /s"),
}
Series = dict[str, Any]
Ask = Callable[[str, bool], list[Series]]
"""From an expression, and whether it is instant, to Prometheus's series that have data."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """One dashboard over one time range; `variables` are Grafana's."""

    board: dict[str, Any]
    ask: Ask
    variables: dict[str, str]
    exits: list[str]

    def save(self, path: Path) -> list[str]:
        """Draws every panel where the dashboard has it; returns the queries without data."""
        height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in self.board["panels"])
        silent: list[str] = []
        figure = plt.figure(figsize=(COLUMNS * COLUMN_INCHES, height * ROW_INCHES), dpi=80)
        for panel in self.board["panels"]:
            area = panel["gridPos"]
            if panel["type"] == "row":
                bottom = 1 - (area["y"] + 0.9) / height
                figure.text(0.01, bottom, panel["title"], fontsize=13, weight="bold")
                continue
            repeats = self.exits if panel.get("repeat") else [""]
            width = area["w"] / len(repeats)
            for number, exit in enumerate(repeats):
                left = area["x"] + number * width
                axes = place(figure, left, area["y"], width, area["h"], height)
                silent += self._draw(axes, panel, self.variables | {"exit": exit})
        figure.savefig(path)
        plt.close(figure)
        return silent

    def _draw(self, axes: Axes, panel: dict[str, Any], variables: dict[str, str]) -> list[str]:
        axes.set_title(filled(panel["title"], variables), fontsize=9)
        axes.tick_params(labelsize=7)
        answers = [
            (target["legendFormat"], self.ask(filled(target["expr"], variables), target["instant"]))
            for target in panel["targets"]
        ]
        named = [(named_as(text, one), one) for text, series in answers for one in series]
        silent = [f"{panel['title']}: {text}" for text, series in answers if not series]
        if panel["type"] == "heatmap":
            heat(axes, [one for _, one in named])
            return silent
        unit = panel["fieldConfig"]["defaults"]["unit"]
        if panel["type"] == "bargauge":
            axes.barh([name for name, _ in named], [float(one["value"][1]) for _, one in named])
            axes.invert_yaxis()
            axes.tick_params("y", labelsize=6)
        else:
            lines(axes, named, is_stacked="max" in panel["fieldConfig"]["defaults"])
        if unit in FORMATTERS:
            axis = axes.xaxis if panel["type"] == "bargauge" else axes.yaxis
            axis.set_major_formatter(FORMATTERS[unit])
        return silent


def place(figure: Figure, x: float, y: float, width: float, rows: float, height: float) -> Axes:
    """Axes at a place of Grafana's grid, whose first row is at the top; the legend goes below."""
    bottom = 1 - (y + rows - 0.9 - LEGEND_ROWS) / height
    return figure.add_axes(
        ((x + 1.2) / COLUMNS, bottom, (width - 1.6) / COLUMNS, (rows - 2 - LEGEND_ROWS) / height)
    )


def lines(axes: Axes, named: list[tuple[str, Series]], *, is_stacked: bool) -> None:
    """Curves over minutes since the first; a stack needs every curve at the same times.

    The legend leaves out what is zero all the time.
    """
    curves = [np.array(one["values"], dtype=float) for _, one in named]
    if not curves:
        return
    start = min(curve[0, 0] for curve in curves)
    is_any = [bool(np.nan_to_num(curve[:, 1]).any()) for curve in curves]
    names = [name if shown else "_" for (name, _), shown in zip(named, is_any, strict=True)]
    if is_stacked and len({len(curve) for curve in curves}) == 1:
        minutes = (curves[0][:, 0] - start) / 60
        axes.stackplot(minutes, [np.nan_to_num(c[:, 1]) for c in curves], labels=names, alpha=0.7)
        axes.set_ylim(0, 1)
    else:
        for name, curve in zip(names, curves, strict=True):
            axes.plot((curve[:, 0] - start) / 60, curve[:, 1], label=name, linewidth=1)
        axes.set_ylim(0, HEADROOM * axes.get_ylim()[1])
    axes.set_xlabel("minutes", fontsize=7, loc="right", labelpad=0)
    if any(is_any):
        ncols = 4 if max(map(len, names)) < LONG_NAME else 2
        axes.legend(fontsize=6, ncols=ncols, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    else:
        axes.set_ylim(0, 1)
        axes.text(0.5, 0.5, "zero throughout", transform=axes.transAxes, ha="center", fontsize=8)


def heat(axes: Axes, series: list[Series]) -> None:
    """How often each bucket was hit; Prometheus's buckets have those below in them."""
    ordered = sorted(series, key=lambda one: float(one["metric"]["le"]))
    counts = np.diff(
        np.array([[float(value) for _, value in one["values"]] for one in ordered]),
        axis=0,
        prepend=0,
    )
    axes.imshow(counts, origin="lower", aspect="auto", cmap="Oranges", interpolation="nearest")
    axes.set_yticks(range(len(ordered)), [one["metric"]["le"] for one in ordered])
    axes.set_xticks([])


def filled(text: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        text = text.replace(f"${name}", value)
    return text


def named_as(legend: str, series: Series) -> str:
    """The legend of one series, with its labels' values in it."""
    return re.sub(r"{{(\w+)}}", lambda label: series["metric"].get(label[1], ""), legend)
