"""Where a run comes from: an earlier run's weights, and the commit of its code."""

import subprocess
from pathlib import Path

import numpy as np
from torch import Tensor

from training import checkpoint
from training.checkpoint import CheckpointError
from training.run_data import RunData, earlier_splits


def earlier_weights(path: Path, net: str, data: RunData) -> dict[str, Tensor]:
    """The weights of an earlier run's checkpoint; raises CheckpointError where they do not fit.

    That run must not have learned from rows that are to select or to calibrate now.
    """
    saved, directory = checkpoint.load(path), path.parent
    if saved.config.net != net:
        raise CheckpointError(f"{directory} holds a {saved.config.net}, not a {net}")
    earlier = earlier_splits(directory, data.fingerprint)
    learned = np.append(earlier.train, earlier.unlabelled)
    apart = np.append(data.splits.selection, data.splits.calibration)
    if np.isin(apart, learned).any():
        raise CheckpointError(f"{directory} has learned from rows that are to be kept apart")
    return saved.weights


def git_commit() -> str:
    """The checkout's commit, "-dirty" appended where it has uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return "unknown"
    return done.stdout.strip() or "unknown"
