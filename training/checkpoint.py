"""What a training run remembers, on disk: enough to go on as if it had never stopped."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.bundle.errors import UserError
from training.config import TrainConfig

SCHEMA = 2


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or of another run; the message says which."""


@dataclass
class Checkpoint:
    """A run after `epoch` finished epochs and `step` steps of the next one.

    `order` holds the rows of that epoch's batches, `loss_sum` and `num_correct` what its steps
    gave. `average` is the weights' moving average. `mean` and `std` are the training split's, per
    channel; `best_score` is the highest mean over exits of selection accuracy so far; `git_commit`
    is where the run started.
    """

    config: TrainConfig
    epoch: int
    step: int
    order: torch.Tensor
    loss_sum: torch.Tensor
    num_correct: torch.Tensor
    distillation_temperature: float
    best_score: float
    net: dict[str, Any]
    average: dict[str, Any] | None
    optimizer: dict[str, Any]
    random_state: dict[str, torch.Tensor]
    labels: list[str]
    image_shape: list[int]
    mean: list[float]
    std: list[float]
    git_commit: str

    @property
    def weights(self) -> dict[str, Any]:
        """The network's state to judge and export: the average, where there is one."""
        if self.average is None:
            return self.net
        prefix = "module."
        return {k.removeprefix(prefix): v for k, v in self.average.items() if k.startswith(prefix)}


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes aside and renames: a reader, or a kill, sees the old file or the new one."""
    fields = vars(checkpoint) | {"config": checkpoint.config.model_dump(), "schema": SCHEMA}
    aside = path.with_suffix(".tmp")
    torch.save(fields, aside)
    os.replace(aside, path)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint; nothing but tensors and plain values is ever unpickled."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
        if fields.pop("schema") != SCHEMA:
            raise CheckpointError(f"{path} was written by another version of Offramp")
        return Checkpoint(**fields | {"config": TrainConfig(**fields["config"])})
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises errors of no common base
        raise CheckpointError(f"{path} is damaged or no checkpoint: {error}") from error


def random_state() -> dict[str, torch.Tensor]:
    """Every random state a run draws from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
