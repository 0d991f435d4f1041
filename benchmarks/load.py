"""The load generator in a process of its own.

    python -m benchmarks.load URL BODIES OUT.jsonl --rate 500 --seconds 10

It is that of `offramp load`. Requests say when they were sent, as a proxy in front would.
"""

import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from load.generator import Body, Client, poisson
from models.bundle.files import allow_files


def main(
    url: str,
    directory: Annotated[
        Path, typer.Argument(metavar="BODIES", help="directory of encoded images or texts")
    ],
    out: Path,
    seconds: float = 10.0,
    rate: Annotated[float, typer.Option(help="requests/s of an open loop, Poisson")] = 0.0,
    connections: Annotated[int, typer.Option(help="connections of a closed loop")] = 1,
    seed: int = 0,
) -> None:
    """Runs one load and writes its shots as JSON lines."""
    allow_files()
    files = sorted(directory.iterdir())
    bodies = [Body(file.read_bytes(), media_type(file)) for file in files]
    client = Client(url, bodies, says_when=True)
    gc.disable()  # a collection during the run would make the requests due then late
    if rate:
        client.open_loop(poisson(rate, seconds, seed))
    else:
        client.closed_loop(connections, seconds)
    with out.open("w") as file:
        file.writelines(json.dumps(asdict(shot)) + "\n" for shot in client.shots())


def media_type(file: Path) -> str:
    """Of an encoded image or a text, by the end of its name."""
    return "text/plain" if file.suffix == ".txt" else f"image/{file.suffix[1:]}"


if __name__ == "__main__":
    typer.run(main)
