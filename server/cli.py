"""`offramp serve` and `offramp profile`."""

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from models.bundle.bundle import load_bundle
from models.bundle.profile import BATCH_SIZES, measure
from models.bundle.runner import SegmentRunner
from server.app import create_app, load_catalog
from server.metrics import Metrics
from server.settings import load_settings


def serve(arguments: Sequence[str]) -> None:
    """Parses options, loads every bundle, then serves until SIGTERM or Ctrl-C."""
    settings = load_settings(arguments)
    # ending as asked is no failure: while models load, and when uvicorn, having drained, raises
    # the signal again
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    metrics = Metrics()
    catalog = load_catalog(settings, metrics)
    uvicorn.run(
        create_app(settings, catalog, metrics),
        host=settings.host,
        port=settings.port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )


def profile(path: Path) -> None:
    """Measures a bundle here and prints milliseconds per graph and batch size."""
    bundle = load_bundle(path)
    manifest = bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    with Progress(transient=True) as progress:
        task = progress.add_task("profiling", total=len(BATCH_SIZES))
        cost = measure(runner, progress=lambda: progress.advance(task))
    console = Console()
    console.print(f"{path} on one thread of {cost.hardware}, {cost.runs} runs")
    for name in ("median_s", "p95_s"):
        table = Table(title=f"{name.removesuffix('_s')}, milliseconds")
        table.add_column("batch size")
        for rows in cost.batch_sizes:
            table.add_column(str(rows), justify="right")
        for kind, graphs in (("segment", cost.segments), ("exit head", cost.exit_heads)):
            for graph in graphs:
                seconds: tuple[float, ...] = getattr(graph, name)
                table.add_row(f"{kind} {graph.exit}", *[f"{1000 * s:.2f}" for s in seconds])
        console.print(table)
