"""`offramp evaluate`, `reproduce` and `profile`."""

from pathlib import Path
from typing import Annotated

import typer

from commands.arguments import BundlePath
from commands.rooms import room


def evaluate(
    bundle: BundlePath,
    data: Annotated[str, typer.Option(help="Data, as for train. The test split is used.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory to write report.json, report.md and curves.png into, too."),
    ] = None,
    skip_undecodable: Annotated[
        bool, typer.Option("--skip-undecodable", help="Leave out images that cannot be decoded.")
    ] = False,
) -> None:
    """Print what a bundle's exits and operating points give on a test split."""
    room("training").evaluate(bundle, data, out, skip_undecodable=skip_undecodable)


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="Experiment: cifar100-150, -250, -350, -500, semi-supervised, temperature,"
            " teachers, recipe, overhead, or caltech101-5, -10, -20, -all."
        ),
    ],
    data: Annotated[str, typer.Option(help="CIFAR-100 or Caltech-101, named as for train.")],
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe on CIFAR-100: paper (300 epochs, 11 exits) or short (hours on two cores)."
        ),
    ] = "paper",
    seeds: Annotated[
        int, typer.Option(help="Runs of each method, each with its own seed.", min=1)
    ] = 3,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at once. Default: one per GPU, else per core.", min=1)
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for runs and tables.")] = Path(
        "runs/reproduce"
    ),
) -> None:
    """Compare training methods as the paper does; the same call goes on."""
    room("training").reproduce(name, data, recipe, seeds, jobs, out)


def profile(bundle: BundlePath) -> None:
    """Print what every segment and exit head of a bundle costs on this host."""
    room("server").profile(bundle)
