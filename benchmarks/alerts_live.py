"""Faults on a real server under a real Prometheus: alerts fire, and clear when the fault ends.

Rules run with windows and waits sixty times as short. Every alert must have its fault. Prints
Markdown; takes about a quarter of an hour, most of it the slow burn of the error budget clearing:

    python -m benchmarks.alerts_live DATA
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.faults import BUNDLE, MODEL, Client, Fault, faults
from benchmarks.loading import chosen_rows, encode
from benchmarks.process import free_port, serving
from benchmarks.prometheus import Prometheus, scraping
from training.data import open_images

TIMES = 60
LIMIT_S = 600
CALM_S = 90
BREAKABLE = "benchmarks.breakable"
SETTINGS: dict[str, Any] = {"workers": 1, "max_in_flight": 16, "max_images": 8, "shadow_share": 0.2}


def watch(prometheus: Prometheus, client: Client, fault: Fault) -> str:
    """Makes a fault until its alerts fire, then sends what is usual until they are gone: a row."""
    start = time.monotonic()
    with fault.made():
        until(lambda: fault.alerts <= prometheus.firing(), fault)
        fired_s, others = time.monotonic() - start, prometheus.firing() - fault.alerts
    start = time.monotonic()
    with client.sending():
        until(lambda: not fault.alerts & prometheus.firing(), fault)
    cleared_s = time.monotonic() - start
    names = ", ".join(sorted(fault.alerts))
    beside = ", ".join(sorted(others)) or "none"
    return f"| {fault.name} | {names} | {fired_s:.0f} | {cleared_s:.0f} | {beside} |"


def until(is_so: Callable[[], bool], fault: Fault) -> None:
    """Returns once it is; raises TimeoutError."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{fault.name}: {', '.join(fault.alerts)}")
        time.sleep(0.5)


def images(data: str) -> list[bytes]:
    test = open_images(data, "test")
    rows = chosen_rows(len(test.labels), 1000)
    return [encode(image) for image in test.take(rows).images.numpy()]


def noise() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    return [encode(image) for image in pixels]


def main(
    data: str,
    only: Annotated[list[str] | None, typer.Option(help="Part of a fault's name.")] = None,
) -> None:
    """Prints one row per fault."""
    with TemporaryDirectory() as directory, ExitStack() as ending:
        zoo, port = Path(directory) / "zoo", free_port()
        shutil.copytree(BUNDLE, zoo / MODEL / BUNDLE.name)
        first = ending.enter_context(ExitStack())
        server = first.enter_context(serving(zoo, port, module=BREAKABLE, **SETTINGS))
        client = Client(server.url, images(data))
        prometheus = ending.enter_context(scraping(server.url, Path(directory), TIMES))

        @contextmanager
        def stopped() -> Iterator[None]:
            first.close()
            yield
            ending.enter_context(serving(zoo, port, **SETTINGS))

        made = faults(client, Client(server.url, noise()), zoo, server.process.pid)
        made.append(Fault("the server ends", {"OfframpDown"}, stopped))
        if faultless := prometheus.alerts().difference(*(fault.alerts for fault in made)):
            raise RuntimeError(f"no fault is known to make {', '.join(faultless)}")
        with client.sending():
            time.sleep(CALM_S)
        if firing := prometheus.firing():
            raise RuntimeError(f"nothing is wrong, but {', '.join(firing)}")
        print(f"{CALM_S} s of calm: no alert. Windows and waits are {TIMES} times as short.\n")
        print("| fault | alerts | fire after s | clear after s | firing beside them |")
        print("|---|---|---|---|---|")
        for fault in made:
            if only is None or any(part in fault.name for part in only):
                print(watch(prometheus, client, fault), flush=True)


if __name__ == "__main__":
    typer.run(main)
