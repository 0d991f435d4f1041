"""The command line's front door. A room is loaded only when its command is called."""

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

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
            help='"digits", a directory of image folders or parquet files, or a hub name.'
        ),
    ],
    net: Annotated[
        str, typer.Option(help="A preset, FILE.py:FUNCTION, or transformers:DIRECTORY.")
    ] = "msdnet-7",
    recipe: Annotated[
        str,
        typer.Option(
            help="paper (300 epochs), paper-imagenet, short (two CPU cores, two hours), digits."
        ),
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
def attach(
    model: Annotated[Path, typer.Argument(help="A trained image classifier as an ONNX file.")],
    data: Annotated[
        str, typer.Option(help="Images as for train; labels and a test split are not needed.")
    ],
    name: Annotated[str, typer.Option(help="The model's name.")],
    version: Annotated[int, typer.Option(help="Its version, a positive integer.", min=1)] = 1,
    zoo: Annotated[Path, typer.Option(help="Where bundles live.")] = Path("models/zoo"),
    exits: Annotated[
        int | None,
        typer.Option(help="How many exits, the last included; as many as pay by default.", min=2),
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Where to cut instead: names of tensors, comma-separated.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="File of the network's labels, one a line or JSON, in its order."),
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Learn and calibrate without the data's labels.")
    ] = False,
    size: Annotated[
        int | None, typer.Option(help="Pixels, where the file does not say; else 224.", min=1)
    ] = None,
    resize: Annotated[
        Literal["squash", "crop", "pad"], typer.Option(help="How other sizes are fitted.")
    ] = "squash",
    mean: Annotated[
        str | None,
        typer.Option(help="R,G,B of pixels in [0, 1]; ImageNet's, or 0.5 with channels last."),
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation, likewise.")] = None,
    channels_first: Annotated[
        bool | None, typer.Option(help="Where the file does not say.")
    ] = None,
    max_disagreement: Annotated[
        float,
        typer.Option(
            help="Share of answers that may differ at `certified`, with probability 0.9.",
            min=0,
            max=1,
        ),
    ] = 0.05,
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit graphs, if they are faster and answer alike.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Where features are kept for the next run.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split and the heads.", min=0)] = 0,
) -> None:
    """Put exits on a network that is trained already; the same call goes on after a stop."""
    room("training").attach(
        model,
        data,
        name,
        version,
        zoo,
        num_exits=exits,
        at=at,
        labels=labels,
        uses_labels=not unlabelled,
        size=size,
        resize=resize,
        mean=mean,
        std=std,
        channels_first=channels_first,
        max_disagreement=max_disagreement,
        int8=int8,
        cache=cache,
        seed=seed,
    )


@app.command()
def evaluate(
    bundle: BundlePath,
    data: Annotated[str, typer.Option(help="As for train; its test split is used.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write report.json, report.md and curves.png here.")
    ] = None,
    skip_undecodable: Annotated[
        bool, typer.Option("--skip-undecodable", help="Leave out images that cannot be decoded.")
    ] = False,
) -> None:
    """Print what a bundle's exits and operating points give on a test split."""
    room("training").evaluate(bundle, data, out, skip_undecodable=skip_undecodable)


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
    processes: Annotated[
        int | None,
        typer.Option(help="Server processes; as the server would choose by default.", min=1),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            help="Threads for long segments in each process; default: cores / processes.", min=1
        ),
    ] = None,
    arrivals: Annotated[
        str,
        typer.Option(help="poisson, bursts, or a file of times of arrival: sped up to each rate."),
    ] = "poisson",
    requests: Annotated[int, typer.Option(help="How many to simulate at each rate.", min=2)] = 5000,
    request_python_ms: Annotated[
        float, typer.Option(help="HTTP and decoding per request: assumed, not measured.", min=0)
    ] = 0.4,
    batch_python_ms: Annotated[
        float, typer.Option(help="Around the graphs per batch: assumed, not measured.", min=0)
    ] = 0.1,
) -> None:
    """Print what load does to answers: the server's scheduler under a simulated clock."""
    room("server").simulate(
        bundle,
        rates,
        latency_budget_ms,
        operating_point,
        processes,
        lanes,
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
    room("server.processes").serve(context.args)


def room(name: str) -> ModuleType:
    """The command-line module of a room, imported now."""
    try:
        return import_module(f"{name}.cli")
    except ModuleNotFoundError as error:
        if name == "training" and error.name in ("torch", "datasets", "sklearn", "onnx"):
            raise UserError(f"training needs {error.name}: pip install 'offramp[train]'") from error
        raise


def at_home(word: str) -> str:
    """A word of the command line with `~` expanded, also behind `=`, where shells leave it."""
    name, equals, value = word.partition("=")
    if equals and value.startswith("~"):
        return f"{name}={os.path.expanduser(value)}"
    return os.path.expanduser(word)


def main() -> None:
    """Runs the command line; what a person can mend is one sentence, not a traceback."""
    try:
        app(args=[at_home(word) for word in sys.argv[1:]])
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a path that is a file, no rights
        if error.filename is None and error.errno is None:
            raise  # of a library that says nothing about the user's files
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror}")


if __name__ == "__main__":
    main()
