"""What tests share: real data, a bundle trained in seconds, and real server processes."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import settings

from benchmarks.process import ROOT, ServerProcess, serving
from models.bundle.bundle import Bundle, load_bundle
from tests.keeping import kept

os.environ["OFFRAMP_CACHE"] = os.devnull  # nothing is left in the user's home
# every client would read all certificates: 50 ms each, and no test asks another machine
os.environ["SSL_CERT_DIR"] = str(ROOT / "tests")
os.environ.pop("SSL_CERT_FILE", None)
# a shell lets what it runs in the background ignore Ctrl-C, and so would every process of a test
signal.signal(signal.SIGINT, signal.default_int_handler)
CIFAR100 = Path(os.environ.get("CIFAR100_DIR", ROOT / "../shared/data/cifar100"))
# laws hold however slow the machine is; new cases are for `make fuzz`
settings.register_profile("patient", deadline=None, derandomize=True)
settings.load_profile("patient")

Serve = Callable[..., AbstractContextManager[ServerProcess]]
digits = partial(import_module, "tests.digits")  # with torch: seconds, for a process without need


FIRST, LAST = "tests/training/attaching/test_attach.py", "tests/server/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file goes first: it needs no bundle of digits, while another worker makes it.

    The server's files are short and go last: no worker is alone with a long one at the end.
    """
    items.sort(key=lambda item: item.nodeid.startswith(LAST) - item.nodeid.startswith(FIRST))


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
    kept("run", lambda made: digits().train(made), run)
    return run


@pytest.fixture(scope="session")
def digits_zoo(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo with one bundle, digits version 1."""
    zoo = tmp_path_factory.mktemp("zoos") / "zoo"
    kept("zoo", lambda made: digits().export_first(digits_run, made), zoo)
    return zoo


@pytest.fixture(scope="session")
def digits_bundle(digits_zoo: Path) -> Bundle:
    return load_bundle(digits_zoo / "digits" / "1")


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Starts a server on a zoo, with OFFRAMP_* settings given in lower case without the prefix.

    It measures costs for a moment: ten seconds a model, as by default, are for real work.
    """
    return partial(serving, profile_s=0.5)


@pytest.fixture(scope="session")
def shipped(serve: Serve) -> Iterator[str]:
    """The URL of a server of the shipped bundles: RUNNING_SERVER's, else one of its own."""
    if url := os.environ.get("RUNNING_SERVER"):
        yield url
        return
    with serve(ROOT / "models/zoo") as server:
        yield server.url
