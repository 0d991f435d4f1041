"""Where a run comes from: earlier runs on the same data, and the commit of its code."""

import subprocess
from pathlib import Path

import numpy as np

from models.nets.multi_exit import MultiExitNet
from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.config import TrainConfig
from training.data.source import ImageSource
from training.run_data import RunData, earlier_splits


def earlier_run(path: Path, data: RunData) -> Checkpoint:
    """A checkpoint of an earlier run; raises CheckpointError where its data were others.

    That run must not have learned from rows that are to select or to calibrate now.
    """
    saved, directory = checkpoint.load(path), path.parent
    earlier = earlier_splits(directory, data.fingerprint)
    learned = np.append(earlier.train, earlier.unlabelled)
    apart = np.append(data.splits.selection, data.splits.calibration)
    if np.isin(apart, learned).any():
        raise CheckpointError(f"{directory} has learned from rows that are to be kept apart")
    return saved


def refuse_other_inputs(saved: Checkpoint, data: RunData, run: str) -> None:
    """Raises CheckpointError where that run made something else of its rows."""
    is_text = bool(data.tokenizer)
    same = saved.tokenizer == data.tokenizer if is_text else saved.input == data.train.target
    if not same:
        raise CheckpointError(
            f"{run} makes other inputs of the same rows: its image size, resize rule, columns or "
            "tokenizer differ"
        )


def take_weights(net: MultiExitNet, saved: Checkpoint, data: RunData, config: TrainConfig) -> None:
    """Gives a network the best weights of the run that it starts from.

    Raises CheckpointError where they are of another network or for other inputs. Images may be
    fitted otherwise and have another size, if the weights do not depend on it.
    """
    run = f"{config.start_from}"
    if saved.config.net != config.net:
        raise CheckpointError(f"{run} holds a {saved.config.net}, not a {config.net}")
    if not isinstance(data.train, ImageSource):
        refuse_other_inputs(saved, data, run)
    try:
        net.load_state_dict(saved.weights)
    except RuntimeError as error:  # torch lists every tensor
        sizes = [" x ".join(map(str, shape)) for shape in (saved.shape, data.train.shape)]
        what = "tokens x length" if data.tokenizer else "inputs"
        raise CheckpointError(
            f"the weights of {run} do not fit: its network was built for {what} of {sizes[0]}, "
            f"this one for {sizes[1]}"
        ) from error


def git_commit() -> str:
    """The checkout's commit, "-dirty" appended where it has uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return "unknown"
    return done.stdout.strip() or "unknown"
