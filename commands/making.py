"""`offramp train` and `export`."""

from pathlib import Path
from typing import Annotated

import typer

from commands.arguments import ZOO, Name, Version, Zoo
from commands.rooms import room

Run = Annotated[Path, typer.Argument(help="Directory of the training run.")]


def train(
    run: Run,
    data: Annotated[
        str,
        typer.Option(
            help="Data: digits, a directory of image folders, CSV, JSON lines or parquet files, or"
            " a hub name."
        ),
    ],
    net: Annotated[
        str, typer.Option(help="Network: a preset, FILE.py:FUNCTION, or transformers:DIRECTORY.")
    ] = "msdnet-7",
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe: paper (300 epochs), paper-imagenet, short (two hours on two CPU cores),"
            " text, numbers or digits (seconds)."
        ),
    ] = "paper",
    set: Annotated[
        list[str] | None,
        typer.Option(help="Change a value of the recipe: NAME=VALUE. May be repeated."),
    ] = None,
) -> None:
    """Train a multi-exit network by distillation; the same call resumes a stopped run."""
    room("training").train(run, data, net, recipe, set or [])


def export(
    run: Run,
    name: Name,
    version: Version = 1,
    zoo: Zoo = ZOO,
    max_accuracy_drop: Annotated[
        float,
        typer.Option(
            help="Share of right answers that the operating point certified may lose against the"
            " last exit, with probability 0.9.",
            min=0,
            max=1,
        ),
    ] = 0.02,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Write 8-bit weights and activations, faster on most CPUs."),
    ] = False,
    skip_undecodable: Annotated[
        bool, typer.Option("--skip-undecodable", help="Leave out images that cannot be decoded.")
    ] = False,
) -> None:
    """Export a training run as a bundle: graphs, calibration, cost profile, report."""
    room("training").export(
        run, name, version, zoo, max_accuracy_drop, int8=int8, skip_undecodable=skip_undecodable
    )
