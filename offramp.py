"""The command line's front door. A room is loaded only when its command is called."""

import os
import sys
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from models.bundle.errors import UserError

app = typer.Typer(
    help="Serve classifiers that can stop early: each answer is the best that its budget allows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
SERVING, TRAINING, MEASURING = "Serve", "Make bundles", "Measure"
CUTTING, IMAGES, OUTCOME = "Where to cut", "Images", "What comes out"
LOAD, HOST = "Load", "Host"

Run = Annotated[Path, typer.Argument(help="Directory of the training run.")]
BundlePath = Annotated[Path, typer.Argument(help="A bundle: ZOO/NAME/VERSION.")]


def print_version(is_wanted: bool) -> None:
    """Prints the version and ends, where the option asks for it."""
    if is_wanted:
        typer.echo(f"offramp {installed_version('offramp')}")
        raise typer.Exit


@app.callback()
def offramp(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Takes the options that belong to no command."""


class ServeCommand(TyperCommand):
    """`offramp serve`. Its options are the server's settings, loaded when they are needed."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401
        return [*import_module("server.options").options(), *super().get_params(ctx)]


@app.command(cls=ServeCommand, rich_help_panel=SERVING)
def serve(context: typer.Context) -> None:
    """Serve every bundle of a directory over HTTP.

    Each option is also an environment variable: --max-images is OFFRAMP_MAX_IMAGES. The
    option wins.
    """
    room("server.processes").serve(context.obj or {})


@app.command(rich_help_panel=TRAINING)
def train(
    run: Run,
    data: Annotated[
        str,
        typer.Option(
            help="Images: digits, a directory of image folders or parquet files, or a hub name."
        ),
    ],
    net: Annotated[
        str, typer.Option(help="Network: a preset, FILE.py:FUNCTION, or transformers:DIRECTORY.")
    ] = "msdnet-7",
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe: paper (300 epochs), paper-imagenet, short (two hours on two CPU cores)"
            " or digits (seconds)."
        ),
    ] = "paper",
    set: Annotated[
        list[str] | None,
        typer.Option(help="Change a value of the recipe: NAME=VALUE. May be repeated."),
    ] = None,
) -> None:
    """Train a multi-exit network by distillation; the same call resumes a stopped run."""
    room("training").train(run, data, net, recipe, set or [])


@app.command(rich_help_panel=TRAINING)
def export(
    run: Run,
    name: Annotated[str, typer.Option(help="Name of the model.")],
    version: Annotated[int, typer.Option(help="Version of the model.", min=1)] = 1,
    zoo: Annotated[Path, typer.Option(help="Directory of bundles to write into.")] = Path(
        "models/zoo"
    ),
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
) -> None:
    """Export a training run as a bundle: graphs, calibration, cost profile, report."""
    room("training").export(run, name, version, zoo, max_accuracy_drop, int8=int8)


@app.command(rich_help_panel=TRAINING)
def attach(
    model: Annotated[Path, typer.Argument(help="A trained image classifier as an ONNX file.")],
    data: Annotated[
        str,
        typer.Option(
            help="Images, as for train. Labels and a test split are not needed.",
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    version: Annotated[int, typer.Option(help="Version of the model.", min=1)] = 1,
    zoo: Annotated[Path, typer.Option(help="Directory of bundles to write into.")] = Path(
        "models/zoo"
    ),
    exits: Annotated[
        int | None,
        typer.Option(
            help="Number of exits, the last included. Default: as many as pay on this host.",
            min=2,
            rich_help_panel=CUTTING,
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Tensors to cut at, by name, separated by commas. Default: chosen for you.",
            rich_help_panel=CUTTING,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="File of the network's labels in its order, one per line or as JSON.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled",
            help="Learn and calibrate without the labels of the data.",
            rich_help_panel=IMAGES,
        ),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of an image in pixels, where the file does not say. Default: 224.",
            min=1,
            rich_help_panel=IMAGES,
        ),
    ] = None,
    resize: Annotated[
        Literal["squash", "crop", "pad"],
        typer.Option(help="How to fit images of another size.", rich_help_panel=IMAGES),
    ] = "squash",
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean of pixels in [0, 1], as R,G,B. Default: ImageNet's; 0.5 where channels are"
            " last.",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Standard deviation of pixels, likewise.", rich_help_panel=IMAGES),
    ] = None,
    channels_first: Annotated[
        bool | None,
        typer.Option(
            help="Order of the input's axes, where the file does not say.", rich_help_panel=IMAGES
        ),
    ] = None,
    max_disagreement: Annotated[
        float,
        typer.Option(
            help="Share of answers that may differ from the last exit's at the operating point"
            " certified, with probability 0.9.",
            min=0,
            max=1,
            rich_help_panel=OUTCOME,
        ),
    ] = 0.05,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Write 8-bit graphs, if they are faster and answer alike.",
            rich_help_panel=OUTCOME,
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Directory that keeps features for the next run. Default:"
            " ~/.cache/offramp/attach.",
            rich_help_panel=OUTCOME,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed of the split and of the heads.", min=0, rich_help_panel=OUTCOME),
    ] = 0,
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


@app.command(rich_help_panel=MEASURING)
def evaluate(
    bundle: BundlePath,
    data: Annotated[str, typer.Option(help="Images, as for train. The test split is used.")],
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


@app.command(rich_help_panel=MEASURING)
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="Experiment: cifar100-150, -250, -350, -500, semi-supervised, temperature,"
            " teachers, recipe or overhead."
        ),
    ],
    data: Annotated[str, typer.Option(help="CIFAR-100, named as for train.")],
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe: paper (300 epochs, 11 exits) or short (hours on two CPU cores)."
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
    """Repeat an experiment of the paper, beside its numbers; the same call goes on."""
    room("training").reproduce(name, data, recipe, seeds, jobs, out)


@app.command(rich_help_panel=MEASURING)
def profile(bundle: BundlePath) -> None:
    """Print what every segment and exit head of a bundle costs on this host."""
    room("server").profile(bundle)


@app.command(rich_help_panel=MEASURING)
def simulate(
    bundle: BundlePath,
    rates: Annotated[
        list[float],
        typer.Option("--rate", help="Requests per second. May be repeated.", rich_help_panel=LOAD),
    ],
    latency_budget_ms: Annotated[
        float | None,
        typer.Option(
            help="Latency budget of every request, in milliseconds. Default: none.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    operating_point: Annotated[
        str, typer.Option(help="Operating point of every request.", rich_help_panel=LOAD)
    ] = "balanced",
    processes: Annotated[
        int | None,
        typer.Option(
            help="Server processes. Default: as the server would choose.",
            min=1,
            rich_help_panel=HOST,
        ),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            help="Threads for long segments in each process. Default: cores / processes.",
            min=1,
            rich_help_panel=HOST,
        ),
    ] = None,
    arrivals: Annotated[
        str,
        typer.Option(
            help="When requests arrive: poisson, bursts, or a file of times in seconds, sped up to"
            " each rate.",
            rich_help_panel=LOAD,
        ),
    ] = "poisson",
    requests: Annotated[
        int,
        typer.Option(help="Requests to simulate at each rate.", min=2, rich_help_panel=LOAD),
    ] = 5000,
    request_python_ms: Annotated[
        float,
        typer.Option(
            help="Milliseconds of HTTP and decoding per request: assumed, not measured.",
            min=0,
            rich_help_panel=HOST,
        ),
    ] = 0.4,
    batch_python_ms: Annotated[
        float,
        typer.Option(
            help="Milliseconds around the graphs per batch: assumed, not measured.",
            min=0,
            rich_help_panel=HOST,
        ),
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


@app.command(rich_help_panel=MEASURING)
def load(
    urls: Annotated[
        list[str],
        typer.Argument(
            help="A server, http://HOST:PORT, or a route with parameters. Several are compared.",
            metavar="URL",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Directory of images or texts, or a file with a text per line. Labels are the"
            " names of class directories, or what follows a tab."
        ),
    ],
    rates: Annotated[
        list[float],
        typer.Option("--rate", help="Requests per second. May be repeated.", min=0.01),
    ],
    latency_budget_ms: Annotated[
        float | None,
        typer.Option(
            help="Latency budget of every request, in milliseconds. Default: none.", min=0
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds of each run.", min=0.1)] = 10.0,
    rounds: Annotated[
        int, typer.Option(help="Runs at each rate, of several servers in turn: A B A B.", min=1)
    ] = 1,
    bodies: Annotated[
        int, typer.Option(help="Images or texts to send at most, chosen at random.", min=1)
    ] = 1000,
    header: Annotated[
        list[str] | None,
        typer.Option(help="Header of every request, 'NAME: VALUE'. May be repeated."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw a figure into this PNG file. Needs matplotlib.")
    ] = None,
) -> None:
    """Send requests at fixed rates and print how many answers were good, late, deep and right.

    Requests go out when they are due, however late the server is: latency counts from then.
    """
    room("load").load(
        urls, data, rates, latency_budget_ms, seconds, rounds, bodies, header or [], plot
    )


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
        app(args=[at_home(word) for word in sys.argv[1:]], prog_name="offramp")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:  # a full disk, a path that is a file, no rights
        if error.filename is None and error.errno is None:
            raise  # of a library that says nothing about the user's files
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {place}{error.strerror}")


if __name__ == "__main__":
    main()
