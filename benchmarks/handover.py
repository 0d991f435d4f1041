"""A server is told to end, and a model is replaced, under load: every admitted request is answered.

    python -m benchmarks.handover models/zoo/cifar100-msdnet DATA --rounds 3

What clients were told is held against the server's log, which has every request that reached it.
After the end the port is closed: the kernel refuses those requests.
"""

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import httpx
import typer

from benchmarks.loading import Traffic, traffic
from benchmarks.process import ServerProcess, serving
from load.generator import Shot
from models.bundle.profile import hardware

SECONDS = 8.0
AFTER_S = 3.0
"""When the server is told, from the start of the load."""
OLD, NEW = "6", "7"


def main(
    model: Annotated[Path, typer.Argument(help="A model of two versions, 6 and 7.")],
    data: str,
    rate: float = 200.0,
    rounds: int = 3,
) -> None:
    """Prints a Markdown table; fails where a request goes without an answer."""
    print(f"{rate:g} requests/s for {SECONDS:g} s, {hardware()}\n")
    by = f"by version {OLD}, {NEW}"
    print(f"| | round | answered | {by} | told 503 | found no server | server ended with |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        asked = traffic(data, 1000, Path(directory))
        for number in range(1, 1 + rounds):
            for name, act in (("SIGTERM", end), ("a new version is loaded", replace)):
                with tempfile.TemporaryDirectory() as zoo:
                    shutil.copytree(model / OLD, Path(zoo) / model.name / OLD)
                    print(f"| {name} | {number} | {row(asked, model, Path(zoo), rate, act)} |")


def row(
    asked: Traffic,
    model: Path,
    zoo: Path,
    rate: float,
    act: Callable[[ServerProcess, Path, Path], None],
) -> str:
    """What one load was told, of which the server does something else in the middle."""
    with serving(zoo, drain_delay_s=1) as server, ThreadPoolExecutor(1) as pool:
        url = f"{server.url}/v1/classify"
        loading = pool.submit(asked.load, url, rate=rate, seconds=SECONDS)
        time.sleep(AFTER_S)
        act(server, model, zoo)
        shots = loading.result()
        if act is end:
            server.process.wait(30)
        check(shots, server)
        versions = Counter(str(shot.answer["version"]) for shot in shots if shot.answer)
        codes = Counter(shot.status for shot in shots)
        ended = server.process.poll()
    return (
        f"{codes[200]} | {versions[OLD]}, {versions[NEW]} | {codes[503]} | {codes[0]} "
        f"| {'it goes on' if ended is None else ended}"
    )


def check(shots: list[Shot], server: ServerProcess) -> None:
    """Raises AssertionError where the log has a request that its client knows nothing of."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    logged = Counter(line["code"] for line in lines if line.get("route") == "/v1/classify")
    told = Counter(shot.status for shot in shots if shot.status)
    assert told == logged, f"clients were told {told}, the log has {logged}"
    assert told.keys() <= {200, 503}


def end(server: ServerProcess, _: Path, __: Path) -> None:
    server.process.terminate()


def replace(server: ServerProcess, model: Path, zoo: Path) -> None:
    """The version that answers a request that names none."""
    shutil.copytree(model / NEW, zoo / model.name / NEW)
    path = f"v2/repository/models/{model.name}/load"
    httpx.post(f"{server.url}/{path}", timeout=60).raise_for_status()


if __name__ == "__main__":
    typer.run(main)
