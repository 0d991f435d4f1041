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

    It ends with the context. `settings` are OFFRAMP_* variables in lower case, without the prefix;
    where `processes` is None, so many run as the server starts by default.
    SERVER_COMMAND, where set, runs instead of this environment's `offramp`.
    """
    own_ports = processes or 0
    port = port or free_port(1 + own_ports)
    settings |= {"zoo": zoo.resolve(), "port": port}
    settings |= {"processes": processes} if processes is not None else {}
    environment = {"OFFRAMP_CACHE": os.devnull}  # costs are measured every time
    environment |= {f"OFFRAMP_{k.upper()}": str(v) for k, v in settings.items()}
    command = os.environ.get("SERVER_COMMAND", f"{sys.executable} -m {module}").split()
    with started([*command, "serve"], port, environment) as server:
        for number in range(own_ports if own_ports > 1 else 0):
            wait_until_ready(server, own_url(server, number))
        yield server


def own_url(server: ServerProcess, number: int) -> str:
    """Where one of a server's processes alone answers."""
    address, _, port = server.url.rpartition(":")
    return f"{address}:{int(port) + 1 + number}"


@contextmanager
def started(
    command: Sequence[str], port: int, environment: dict[str, str], ready: str = "/readyz"
) -> Iterator[ServerProcess]:
    """A process that is to answer the path `ready` on a port, and does by the time this returns."""
    with tempfile.NamedTemporaryFile(prefix="offramp-", suffix=".log") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            server = ServerProcess(f"http://127.0.0.1:{port}", process, Path(log.name))
            wait_until_ready(server, path=ready)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def wait_until_ready(server: ServerProcess, url: str | None = None, path: str = "/readyz") -> None:
    """Returns once the server, or its process at that address, is ready.

    Raises RuntimeError with its log where it never is.
    """
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(f"{url or server.url}{path}").status_code == 200:
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


def free_port(number: int = 1) -> int:
    """The first of so many ports in a row that nobody listens on, and no client is given."""
    while True:
        first = random.choice(PORTS)
        try:
            for port in range(first, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
