"""Fixtures of training runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.exporting import _operators_read_once
from tests.training.runs import CONFIG, silent
from training.loop import train

__all__ = ["_operators_read_once"]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Sums are rounded alike in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    with single_threaded():
        yield


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of CONFIG."""
    directory = tmp_path_factory.mktemp("run")
    with single_threaded():
        train(CONFIG, directory, silent)
    return directory
