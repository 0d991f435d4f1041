"""The dashboards, drawn from some minutes of a real Prometheus, a real server and the load profile.

python -m benchmarks.boards docs/boards --minutes 6

Fails where a query of a panel, or a rule, has no data.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from benchmarks.process import ROOT, serving
from benchmarks.prometheus import Prometheus, has_data, scraping
from deploy.grafana.drawing import Drawing, Series
from deploy.grafana.generate import DIRECTORY

MODEL = "cifar100-msdnet"
POINTS = 300
RATE_WINDOW_S = 15


@contextmanager
def loading(url: str) -> Iterator[None]:
    """The waves of the compose file's load profile."""
    options = [
        f"--locustfile={ROOT / 'deploy/load/locustfile.py'}",
        f"--host={url}",
        "--headless",
        "--loglevel=ERROR",
    ]
    process = subprocess.Popen([sys.executable, "-m", "locust", *options, "--only-summary"])
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def ask(
    prometheus: Prometheus, start: float, end: float, expression: str, is_instant: bool
) -> list[Series]:
    """The series that have data."""
    if is_instant:
        said = prometheus.get("query", query=expression, time=end)
    else:
        step = max(1, int((end - start) / POINTS))
        said = prometheus.get("query_range", query=expression, start=start, end=end, step=step)
    return list(filter(has_data, said["result"]))


def main(out: Path, minutes: float = 6) -> None:
    """Writes one picture per dashboard."""
    out.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory() as directory,
        serving(ROOT / "models/zoo", shadow_share=0.2) as server,
        scraping(server.url, Path(directory), times=1) as prometheus,
        loading(server.url),
    ):
        start = time.time()
        time.sleep(60 * minutes)
        end = time.time()
        exits = prometheus.get("label/exit/values", **{"match[]": "offramp_exits_total"})
        variables = {
            "model": MODEL,
            "version": ".*",
            "__rate_interval": f"{RATE_WINDOW_S}s",
            "__range": f"{int(end - start)}s",
        }
        silent = prometheus.silent_rules()
        for file in sorted(DIRECTORY.glob("*.json")):
            board = json.loads(file.read_text())
            asking = partial(ask, prometheus, start, end)
            silent += Drawing(board, asking, variables, exits).save(out / f"{file.stem}.png")
    if silent:
        raise RuntimeError(f"no data: {', '.join(silent)}")


if __name__ == "__main__":
    typer.run(main)
