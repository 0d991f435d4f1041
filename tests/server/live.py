"""The real application on a real port, over a model whose segments wait until they may run."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from onnxruntime import RunOptions
from PIL import Image

from models.bundle.bundle import Bundle
from models.bundle.runner import Arrays, SegmentRunner
from server.app import create_app
from server.engine.model import ServedModel
from server.http.listener import Listener
from server.settings import load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog
from tests.images import encoded

PNG = encoded(Image.new("L", (8, 8)))
PATIENCE_S = 10.0


class Gated(SegmentRunner):
    """A runner whose segment `exit` waits for the gate to open."""

    def __init__(self, bundle: Bundle, exit: int) -> None:
        manifest = bundle.manifest
        super().__init__(manifest.segments, manifest.exit_heads, bundle.graphs)
        self.exit, self.gate, self.num_waiting = exit, threading.Event(), 0

    def run_segment(self, exit: int, features: Arrays, options: RunOptions | None = None) -> Arrays:
        if exit == self.exit:
            self.num_waiting += 1
            assert self.gate.wait(PATIENCE_S)
        return super().run_segment(exit, features, options)


@contextmanager
def live(model: ServedModel, **settings: object) -> Iterator[str]:
    """Serves one model on a free port of this process; gives the URL."""
    with listening(model, **settings) as (_, url):
        yield url


@contextmanager
def listening(model: ServedModel, **settings: object) -> Iterator[tuple[Listener, str]]:
    """As live, with the server itself, whose `handle_exit` is what a signal calls."""
    catalog, metrics = Catalog(), Metrics()
    catalog.add(model)
    metrics.model_loaded(model)
    metrics.default_is(model)
    checked = load_settings(**settings)
    server = Listener(create_app(checked, catalog, metrics), checked)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            until(lambda: server.started)
            yield server, f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def until(happened: Callable[[], bool]) -> None:
    """Returns once something has happened; fails if it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def samples(url: str) -> dict[str, float]:
    """Every series of /metrics, by its name and labels as exposed."""
    return series_of(httpx.get(f"{url}/metrics"))


def series_of(metrics: httpx.Response) -> dict[str, float]:
    lines = metrics.text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {series: float(value) for series, _, value in pairs}


def sums(said: dict[str, float], text: str) -> float:
    return sum(value for series, value in said.items() if text in series)


def check_counts(client: httpx.Client) -> None:
    """Every image that was ever admitted has been answered, and counted once."""
    said = series_of(client.get("/metrics"))
    assert said["offramp_in_flight"] == said["offramp_queue_depth"] == 0
    assert sums(said, "offramp_exits_total") == sums(said, "offramp_inferences_total") >= 1
    assert sums(said, 'outcome="answered"') == sums(said, "offramp_inferences_total")


def request(path: str, body: bytes = PNG, num_bytes: int | None = None, headers: str = "") -> bytes:
    """A POST of a PNG as it goes over the wire, announcing `num_bytes` of body."""
    length = len(body) if num_bytes is None else num_bytes
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n{headers}"
    return f"{head}Content-Length: {length}\r\n\r\n".encode() + body


def connect(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)
