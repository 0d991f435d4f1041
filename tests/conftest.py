"""What tests share: real data, a bundle trained in seconds, and real server processes."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from models.bundle.bundle import Bundle, load_bundle
from training import loop
from training.config import RECIPES, TrainConfig
from training.export import export

ROOT = Path(__file__).parents[1]
CIFAR100 = Path(os.environ.get("CIFAR100_DIR", ROOT / "../shared/data/cifar100"))
START_LIMIT_S = 60


@dataclass(frozen=True)
class ServerProcess:
    """A real `offramp serve` that answers at `url`."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path


Serve = Callable[..., AbstractContextManager[ServerProcess]]


@pytest.fixture(scope="session")
def cifar100() -> Path:
    """The directory of CIFAR-100's parquet files."""
    if not any(CIFAR100.glob("*.parquet")):
        pytest.skip(f"CIFAR-100 is not at {CIFAR100}; CIFAR100_DIR names another place")
    return CIFAR100


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training run on scikit-learn's digits."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    config = TrainConfig.model_validate(
        {"data": "digits", "net": "msdnet-tiny"} | RECIPES["digits"]
    )
    loop.train(config, run)
    return run


@pytest.fixture(scope="session")
def digits_zoo(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with one bundle, digits version 1."""
    zoo = tmp_path_factory.mktemp("zoo")
    export(digits_run, "digits", 1, zoo)
    return zoo


@pytest.fixture(scope="session")
def digits_bundle(digits_zoo: Path) -> Bundle:
    return load_bundle(digits_zoo / "digits" / "1")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Starts a server on a zoo, with OFFRAMP_* settings given in lower case without the prefix."""

    @contextmanager
    def start(zoo: Path, **settings: object) -> Iterator[ServerProcess]:
        port = free_port()
        log = tmp_path_factory.mktemp("server") / "log"
        environment = os.environ | {f"OFFRAMP_{k.upper()}": str(v) for k, v in settings.items()}
        command = [sys.executable, "-m", "offramp", "serve", "--zoo", str(zoo), "--port", str(port)]
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.STDOUT
            )
        try:
            server = ServerProcess(f"http://127.0.0.1:{port}", process, log)
            wait_until_ready(server)
            yield server
        finally:
            process.terminate()
            process.wait(30)

    return start


def wait_until_ready(server: ServerProcess) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            if httpx.get(f"{server.url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail(f"the server did not become ready:\n{server.log.read_text()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
