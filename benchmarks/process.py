"""A real `offramp serve` in a process of its own, for benchmarks and tests."""

import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[1]
START_LIMIT_S = 60
PORTS = range(10_000, 32_000)
"""Below those that Linux gives to clients, which could take one before a server does."""


@dataclass(frozen=True)
class ServerProcess:
    """A server that answers at `url`; everything it prints is in `log`."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path


@contextmanager
def serving(
    zoo: Path,
    port: int | None = None,
    *,
    processes: int | None = 1,
    module: str = "offramp",
    **settings: object,
) -> Iterator[ServerProcess]:
    """Starts a server, on a free port unless one is given, and waits until it is ready.

    It ends with the context. Where `processes` is None it chooses how many it has. `settings` are
    OFFRAMP_* variables in lower case, without the prefix.
    SERVER_COMMAND, where set, runs instead of this environment's `offramp`.
    """
    port = port or free_port()
    settings |= {"zoo": zoo.resolve(), "port": port}
    if processes is not None:
        settings["processes"] = processes
    environment = {"OFFRAMP_CACHE": os.devnull}  # costs are measured every time
    environment |= {f"OFFRAMP_{k.upper()}": str(v) for k, v in settings.items()}
    command = os.environ.get("SERVER_COMMAND", f"{sys.executable} -m {module}").split()
    with started([*command, "serve"], port, environment) as server:
        yield server


@contextmanager
def started(
    command: Sequence[str],
    port: int,
    environment: dict[str, str],
    ready: str = "/readyz",
    directory: Path = ROOT,
) -> Iterator[ServerProcess]:
    """A process that is to answer the path `ready` on a port, and does by the time this returns."""
    with tempfile.NamedTemporaryFile(prefix="offramp-", suffix=".log") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            server = ServerProcess(f"http://127.0.0.1:{port}", process, Path(log.name))
            wait_until_ready(server, ready)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def wait_until_ready(server: ServerProcess, path: str = "/readyz") -> None:
    """Returns once the server, with all its processes, is ready.

    Raises RuntimeError with its log where it never is.
    """
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}{path}").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError(f"the server did not become ready:\n{server.log.read_text()}")


def resident_mib(pid: int) -> float:
    """The memory that a process has now."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return int(kib) / 1024


def totals(url: str, route: str) -> dict[str, float]:
    """Every metric's sum over its series, of those with a route only that one."""
    found: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics").text):
        for sample in family.samples:
            if sample.labels.get("route", route) == route:
                found[sample.name] += sample.value
    return found


def free_port() -> int:
    """A free port that Linux gives to no client."""
    while True:
        port = random.choice(PORTS)
        try:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return port
