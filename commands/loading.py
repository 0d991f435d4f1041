"""`offramp simulate` and `load`: what load does to answers, simulated or sent."""

from math import inf
from pathlib import Path
from typing import Annotated

import typer

from commands.arguments import BundlePath
from commands.rooms import room
from models.bundle.errors import UserError

LOAD, HOST = "Load", "Host"


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
    refuse_unless_positive("--rate", *rates)
    refuse_unless_positive("--latency-budget-ms", latency_budget_ms)
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
        typer.Option(help="Latency budget of every request, in milliseconds. Default: none."),
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
    refuse_unless_positive("--rate", *rates)
    refuse_unless_positive("--latency-budget-ms", latency_budget_ms)
    refuse_unless_positive("--seconds", seconds)
    room("load").load(
        urls, data, rates, latency_budget_ms, seconds, rounds, bodies, header or [], plot
    )


def refuse_unless_positive(option: str, *values: float | None) -> None:
    """Raises UserError, which names the option; None was not given."""
    for value in values:
        if value is not None and not 0 < value < inf:
            raise UserError(f"{option} must be a number above 0, not {value:g}")
