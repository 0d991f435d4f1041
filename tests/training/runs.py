"""A short training run on digits for tests, and ways to end runs and to compare them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from models.bundle.bundle import Bundle
from training import checkpoint
from training.config import TrainConfig
from training.distributed import World
from training.exporting.quantize import Graphs
from training.feed import Held
from training.run import BEST, LAST, Run

CONFIG = TrainConfig(
    data="digits",
    net="msdnet-tiny",
    epochs=3,
    batch_size=32,
    schedule="linear",
    warmup_epochs=1,
    distillation_confidence=0.1,
    crop_padding=1,
    calibration_per_class=5,
    selection_per_class=10,
    images_per_class=23,
)
"""Four batches an epoch with two rows left over; every batch but one raises the temperature."""

CPU = World(torch.device("cpu"))

Result = TypeVar("Result")


class Killed(BaseException):
    """Stands for the end of the process."""


def silent(_: str) -> None:
    return None


def run_of(directory: Path, **changes: object) -> Run:
    directory.mkdir(exist_ok=True)
    return Run(CONFIG.model_copy(update=changes), directory, CPU)


def held(run: Run) -> Held:
    assert isinstance(run.feed, Held)
    return run.feed


def same(one: object, other: object) -> bool:
    """Equality down to the bits of every tensor."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_end(directory: Path, expected: Path) -> None:
    for name in (LAST, BEST):
        found, wanted = (vars(checkpoint.load(d / name)) for d in (directory, expected))
        differing = {key for key in wanted if not same(found[key], wanted[key])}
        assert differing <= {"git_commit"}  # where the process that started the run stood


def dying(function: Callable[..., Result], calls: int) -> Callable[..., Result]:
    """The function, but the process ends when its `calls`-th call is done."""
    count = 0

    def call(*arguments: object) -> Result:
        nonlocal count
        count += 1
        result = function(*arguments)
        if count == calls:
            raise Killed
        return result

    return call


def exported(bundle: Bundle) -> Graphs:
    """A bundle's graphs, as if they had just been exported."""
    return [*bundle.manifest.segments], [*bundle.manifest.exit_heads], {**bundle.graphs}
