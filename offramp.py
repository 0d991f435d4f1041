"""The command line's front door. A room is loaded only when its command is called."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from models.bundle.errors import UserError

app = typer.Typer(
    help="Anytime inference: train multi-exit networks, export them, serve them under a budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Run = Annotated[Path, typer.Argument(help="Directory of the training run.")]
BundlePath = Annotated[Path, typer.Argument(help="A bundle: ZOO/NAME/VERSION.")]


@app.command()
def train(
    run: Run,
    data: Annotated[
        str,
        typer.Option(
            help='"digits", a directory of parquet files or image folders, or a hub name.'
        ),
    ],
    net: Annotated[
        str, typer.Option(help="A preset, or your own network as FILE.py:FUNCTION.")
    ] = "msdnet-7",
    recipe: Annotated[
        str, typer.Option(help="paper (300 epochs), short (two CPU cores, two hours) or digits.")
    ] = "paper",
    set: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE, another value than the recipe's; repeatable."),
    ] = None,
) -> None:
    """Train a multi-exit network by distillation; the same call resumes a stopped run."""
    room("training").train(run, data, net, recipe, set or [])


@app.command()
def export(
    run: Run,
    name: Annotated[str, typer.Option(help="The model's name.")],
    version: Annotated[int, typer.Option(help="Its version, a positive integer.", min=1)] = 1,
    zoo: Annotated[Path, typer.Option(help="Where bundles live.")] = Path("models/zoo"),
    max_accuracy_drop: Annotated[
        float,
        typer.Option(
            help="Accuracy that the operating point `certified` may lose, with probability 0.9.",
            min=0,
            max=1,
        ),
    ] = 0.02,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit weights and activations: faster on most CPUs.")
    ] = False,
) -> None:
    """Export a training run as a bundle: graphs, calibration, cost profile, report."""
    room("training").export(run, name, version, zoo, max_accuracy_drop, int8=int8)


@app.command()
def evaluate(
    bundle: BundlePath,
    data: Annotated[str, typer.Option(help="As for train; its test split is used.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write report.json, report.md and curves.png here.")
    ] = None,
) -> None:
    """Print what a bundle's exits and operating points give on a test split."""
    room("training").evaluate(bundle, data, out)


@app.command()
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="cifar100-150, -250, -350, -500, semi-supervised, temperature, teachers, recipe, "
            "overhead."
        ),
    ],
    data: Annotated[str, typer.Option(help="CIFAR-100, as for train.")],
    recipe: Annotated[
        str, typer.Option(help="paper (300 epochs, 11 exits) or short (two CPU cores, hours).")
    ] = "paper",
    seeds: Annotated[int, typer.Option(help="Runs of each method.", min=1)] = 3,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at once; one per GPU or core by default.", min=1)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where runs and tables go.")] = Path("runs/reproduce"),
) -> None:
    """Repeat an experiment of the paper, beside its numbers; the same call goes on."""
    room("training").reproduce(name, data, recipe, seeds, jobs, out)


@app.command()
def profile(bundle: BundlePath) -> None:
    """Print what every segment and exit head of a bundle costs on this host."""
    room("server").profile(bundle)


@app.command()
def simulate(
    bundle: BundlePath,
    rates: Annotated[list[float], typer.Option("--rate", help="Requests a second; repeatable.")],
    latency_budget_ms: Annotated[float | None, typer.Option(help="Of every request.")] = None,
    operating_point: Annotated[str, typer.Option(help="Of every request.")] = "balanced",
    workers: Annotated[
        int | None, typer.Option(help="Worker threads; one per core by default.", min=1)
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(help="Of the server alone; all of this machine's by default.", min=1),
    ] = None,
    arrivals: Annotated[
        str,
        typer.Option(help="poisson, bursts, or a file of times of arrival: sped up to each rate."),
    ] = "poisson",
    requests: Annotated[int, typer.Option(help="How many to simulate at each rate.", min=2)] = 5000,
    request_python_ms: Annotated[
        float, typer.Option(help="HTTP and decoding, per request: assumed, not measured.", min=0)
    ] = 0.6,
    batch_python_ms: Annotated[
        float, typer.Option(help="Around the graphs, per batch: assumed, not measured.", min=0)
    ] = 0.2,
) -> None:
    """Print what load does to answers: the server's scheduler under a simulated clock."""
    room("server").simulate(
        bundle,
        rates,
        latency_budget_ms,
        operating_point,
        workers,
        cores,
        arrivals,
        requests,
        request_python_ms,
        batch_python_ms,
    )


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def serve(context: typer.Context) -> None:
    """Serve every bundle of a directory over HTTP; `offramp serve --help` lists the options."""
    room("server").serve(context.args)


def room(name: str) -> ModuleType:
    """The command-line module of a room, imported now."""
    try:
        return import_module(f"{name}.cli")
    except ModuleNotFoundError as error:
        if name == "training" and error.name in ("torch", "datasets", "sklearn", "onnx"):
            raise UserError(f"training needs {error.name}: pip install 'offramp[train]'") from error
        raise


def main() -> None:
    """Runs the command line; what a person can mend is one sentence, not a traceback."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
