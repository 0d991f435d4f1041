"""The figure of `offramp load`. matplotlib is optional."""

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from load.outcomes import Outcomes

PANELS: dict[str, Callable[[Outcomes], float]] = {
    "good answers per second": lambda found: found.good,
    "late, refused or failed, %": lambda found: 100 * (found.late + found.refused + found.failed),
    "mean exit": lambda found: found.mean_exit,
    "top-1 of the answers, %": lambda found: 100 * found.accuracy,
}


def draw(found: Mapping[tuple[float, str], Outcomes], path: Path) -> None:
    """Draws each server's outcomes against the rate offered."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for axes, (title, number) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for server in dict.fromkeys(name for _, name in found):
            ours = [outcomes for (_, name), outcomes in found.items() if name == server]
            xs = [outcomes.offered for outcomes in ours]
            axes.plot(xs, [number(outcomes) for outcomes in ours], marker="o", label=server)
        axes.set(xlabel="requests offered per second", title=title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)
