"""What a training run remembers, on disk: enough to go on as if it had never stopped."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from models.bundle.errors import UserError
from models.bundle.manifest import AnyInput
from models.nets.multi_exit import MultiExitNet
from models.nets.presets import build
from training.config import TrainConfig
from training.data.sources import shape_of

SCHEMA = 3
INPUT: TypeAdapter[AnyInput] = TypeAdapter(AnyInput)


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or of another run; the message says which."""


@dataclass
class Checkpoint:
    """A run after `epoch` finished epochs and `step` steps of the next one.

    `order` holds the rows of that epoch's batches, `loss_sum` and `num_correct` what its steps
    gave. `average` is the weights' moving average. `mean` and `std` are the training split's, per
    channel of images or per number; `best_score` is the highest mean over exits of selection
    accuracy so far; `input` is what rows are made into; `tokenizer` is the
    `tokenizer.json` of texts; `git_commit` is where the run started.
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
    input: AnyInput
    mean: list[float]
    std: list[float]
    git_commit: str
    tokenizer: str = ""

    @property
    def shape(self) -> list[int]:
        return shape_of(self.input, self.tokenizer)

    @property
    def weights(self) -> dict[str, Any]:
        """The network's state to judge and export: the average, where there is one."""
        if self.average is None:
            return self.net
        prefix = "module."
        return {k.removeprefix(prefix): v for k, v in self.average.items() if k.startswith(prefix)}

    def network(self) -> MultiExitNet:
        """The network with these weights, ready to answer."""
        net = build(self.config.net, self.shape, len(self.labels))
        fill(net, self.weights, self.config)
        return net.eval()


def fill(net: MultiExitNet, weights: dict[str, Any], config: TrainConfig) -> None:
    """Gives a network its weights; raises CheckpointError where they are those of another."""
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:  # torch lists every tensor
        raise CheckpointError(
            f"{config.net} gives another network than the one that was trained: its weights do "
            "not fit"
        ) from error


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes aside and renames: a reader, or a kill, sees the old file or the new one."""
    records = {"config": checkpoint.config.model_dump(), "input": checkpoint.input.model_dump()}
    aside = path.with_suffix(".tmp")
    try:
        torch.save(vars(checkpoint) | records | {"schema": SCHEMA}, aside)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter when the disk is full
        aside.unlink(missing_ok=True)
        reason = f"{error}".partition("\n")[0]
        raise CheckpointError(
            f"cannot save {path}: {reason}; what was saved there before is kept"
        ) from error


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint; nothing but tensors and plain values is ever unpickled."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
        if fields.pop("schema") != SCHEMA:
            raise CheckpointError(f"{path} was written by another version of Offramp")
        config = TrainConfig(**fields["config"])
        return Checkpoint(
            **fields | {"config": config, "input": INPUT.validate_python(fields["input"])}
        )
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
