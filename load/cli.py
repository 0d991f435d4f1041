"""`offramp load`."""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from string import ascii_uppercase

from load import bodies
from load.bodies import Traffic
from load.generator import Client, poisson
from load.outcomes import HEADINGS, Outcomes, medians, outcomes
from load.target import ask_once, header, route
from models.bundle.errors import Interrupted, UserError
from models.bundle.files import allow_files

WARM_S, WARM_CONNECTIONS = 1.0, 8
"""Before each run: warms the server up, and takes what the run before left."""
EVERY_S = 0.5
LATE_MS = 5.0
Runs = dict[tuple[float, str], list[Outcomes]]
"""The outcomes of each rate and server, one per round."""


@dataclass(frozen=True)
class Plan:
    """What every run sends."""

    traffic: Traffic
    headers: list[tuple[str, str]]
    seconds: float
    budget_ms: float | None


def load(
    urls: Sequence[str],
    data: Path,
    rates: Sequence[float],
    budget_ms: float | None,
    seconds: float,
    rounds: int,
    num_bodies: int,
    headers: Sequence[str],
    plot: Path | None,
) -> None:
    """Steps through the rates, server by server, and prints a line per run as it ends.

    Raises Interrupted for Ctrl-C, once what there is has been printed and drawn.
    """
    if plot is not None and find_spec("matplotlib") is None:
        raise UserError("a plot needs matplotlib: pip install matplotlib")
    allow_files()
    plan = Plan(bodies.read(data, num_bodies), list(map(header, headers)), seconds, budget_ms)
    servers = {
        name: route(url, budget_ms) for name, url in zip(ascii_uppercase, urls, strict=False)
    }
    for name, url in servers.items():
        ask_once(url, plan.traffic.bodies[0], plan.headers)
        print(f"{name}: {url}")
    runs: Runs = {(rate, name): [] for rate in rates for name in servers}
    print(f"\n{line('rate', 'server', HEADINGS)}\n{rule()}")
    is_complete = run_all(servers, runs, rounds, plan)
    conclude(runs, plot)
    if not is_complete:
        raise Interrupted("stopped: the last line is of the part of its run that was done")


def run_all(servers: dict[str, str], runs: Runs, rounds: int, plan: Plan) -> bool:
    """Whether all runs were done, in the order A B A B at each rate."""
    for rate in dict.fromkeys(rate for rate, _ in runs):
        for seed in range(rounds):
            for name, url in servers.items():
                found, is_complete = run(url, rate, seed, plan)
                if found is not None:
                    runs[rate, name].append(found)
                    print(line(f"{rate:g}", name, found.cells()), flush=True)
                if not is_complete:
                    return False
    return True


def run(url: str, rate: float, seed: int, plan: Plan) -> tuple[Outcomes | None, bool]:
    """The outcomes of one open loop, as far as it came, and whether it came to its end."""
    client = Client(url, plan.traffic.bodies, plan.headers)
    is_complete = False
    gc.disable()  # a collection during the run would make the requests due then late
    try:
        Client(url, plan.traffic.bodies, plan.headers).closed_loop(WARM_CONNECTIONS, WARM_S)
        client.open_loop(poisson(rate, plan.seconds, seed), progress(rate, plan.seconds))
        is_complete = True
    except KeyboardInterrupt:
        pass
    finally:
        gc.enable()
        clear_line()
    shots = list(client.shots())
    if not shots:
        return None, is_complete
    seconds = plan.seconds if is_complete else max(shot.done_s for shot in shots)
    is_right = None if plan.traffic.labels is None else plan.traffic.is_right
    return outcomes(shots, seconds, plan.budget_ms, is_right), is_complete


def conclude(runs: Runs, plot: Path | None) -> None:
    """Prints medians where there were several rounds, says how late requests left, and draws."""
    done = {key: rounds for key, rounds in runs.items() if rounds}
    if not done:
        return
    if any(len(rounds) > 1 for rounds in done.values()):
        print(f"\nmedians\n{line('rate', 'server', HEADINGS)}\n{rule()}")
        for (rate, name), rounds in done.items():
            print(line(f"{rate:g}", name, medians(rounds).cells()))
    lag_ms = max(found.lag_ms for rounds in done.values() for found in rounds)
    print(f"\n99 % of the requests of every run left within {lag_ms:.1f} ms of when they were due.")
    if lag_ms > LATE_MS:
        print("That is late: this machine is too slow for these rates, or busy with other work.")
    if plot is not None:
        import_module("load.plot").draw(
            {key: medians(rounds) for key, rounds in done.items()}, plot
        )
        print(f"wrote {plot}")


def progress(rate: float, seconds: float) -> Callable[[float, int], None]:
    """Says on a terminal, twice a second, how far a run is."""
    if not sys.stderr.isatty():
        return lambda *_: None
    said = 0.0

    def say(now_s: float, num_answers: int) -> None:
        nonlocal said
        if (now := time.monotonic()) - said >= EVERY_S:
            said = now
            text = f"\r{rate:g}/s: {now_s:.0f} of {seconds:g} s, {num_answers} answers"
            print(text, end="", file=sys.stderr, flush=True)

    return say


def clear_line() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def line(rate: str, server: str, cells: Sequence[str]) -> str:
    """A row of a Markdown table, aligned under HEADINGS."""
    widths = [len(heading) for heading in HEADINGS]
    aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
    return f"| {rate:>6} | {server:>6} | {' | '.join(aligned)} |"


def rule() -> str:
    return line("-----:", "-----:", ["-" * (len(heading) - 1) + ":" for heading in HEADINGS])
