"""What distillation gives a text encoder's exits, with 20 examples a class and with all.

`python -m benchmarks.intents DATA` trains a network by distillation and exit-wise, with the same
seeds and texts, and prints each exit's test accuracy. Runs are kept under `--out`: the same command
goes on where it was. Few examples are seen as often as it takes for the same number of steps.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from models.bundle.profile import hardware
from training import checkpoint, loop
from training.cli import values_of
from training.config import RECIPES, TrainConfig
from training.run import BEST
from training.run_data import open_data

METHODS = ("distillation", "exit-wise")
SIZES = (20, None)
"""Examples a class; None is all."""
FEW_EPOCHS = 5
"""How many times as many epochs the few examples get: about as many steps."""
Accuracies = NDArray[np.float64]


def config_of(
    settings: dict[str, Any], method: str, size: int | None, seed: int, epochs: int
) -> TrainConfig:
    """`settings` name data and network, and may change the recipe of texts."""
    changes = {"loss": method, "seed": seed, "images_per_class": size}
    changes["epochs"] = epochs * (1 if size is None else FEW_EPOCHS)
    return TrainConfig.model_validate(RECIPES["text"] | settings | changes)


def accuracy_of(run: Path) -> list[float]:
    """Top-1 of every exit on the test split, in percent."""
    saved = checkpoint.load(run / BEST)
    data = open_data(saved.config, run, is_new=False)
    net = saved.network()
    num_right = np.zeros(net.num_exits)
    with torch.no_grad():
        for rows, inputs in data.test.inputs_of(np.arange(len(data.test.labels))):
            labels = data.test.labels[torch.from_numpy(rows)]
            num_right += [int((z.argmax(1) == labels).sum()) for z in net(*inputs)]
    shares: list[float] = (100 * num_right / len(data.test.labels)).tolist()
    return shares


def measured(
    settings: dict[str, Any], size: int | None, seeds: int, epochs: int, out: Path
) -> dict[str, Accuracies]:
    """(seeds, exits) for each method."""
    found: dict[str, Accuracies] = {}
    for method in METHODS:
        rows = []
        for seed in range(seeds):
            run = out / f"{method}-{size or 'all'}-{epochs}-{seed}"
            loop.train(config_of(settings, method, size, seed, epochs), run)
            rows.append(accuracy_of(run))
        found[method] = np.array(rows)
    return found


def table(size: int | None, found: dict[str, Accuracies]) -> str:
    """Means over seeds, and the gain of distillation, paired by seed, with its range."""
    with_teacher, without = (found[method] for method in METHODS)
    gains = with_teacher - without
    lines = [
        f"{'all' if size is None else size} examples a class, {len(gains)} seeds:",
        "| exit | distillation | exit-wise | gain, points | least and most |",
        "|---|---|---|---|---|",
    ]
    for exit in range(gains.shape[1]):
        column = gains[:, exit]
        lines.append(
            f"| {exit + 1} | {with_teacher[:, exit].mean():.2f} | {without[:, exit].mean():.2f} "
            f"| {column.mean():+.2f} | {column.min():+.2f} to {column.max():+.2f} |"
        )
    return "\n".join(lines)


def main(
    data: Annotated[str, typer.Argument(help="CLINC150, or other texts, as for train.")],
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    epochs: Annotated[int, typer.Option(help="With all examples.", min=2)] = 12,
    net: Annotated[str, typer.Option(help="Network, as for train.")] = "text-tiny",
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="As for train.")
    ] = None,
    few_only: Annotated[bool, typer.Option("--few-only", help="Without all examples.")] = False,
    out: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs/intents"),
) -> None:
    """Trains all runs, few examples first, and prints a table for each number of examples."""
    print(f"{hardware()}, torch {torch.__version__}")
    settings = {"data": data, "net": net} | values_of(setting or ())
    for size in SIZES[:1] if few_only else SIZES:
        print(table(size, measured(settings, size, seeds, epochs, out)), flush=True)


if __name__ == "__main__":
    typer.run(main)
