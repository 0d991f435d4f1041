"""Where a run comes from: earlier runs on the same data, and the commit of its code."""

import subprocess
from pathlib import Path

import numpy as np

from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
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


def git_commit() -> str:
    """The checkout's commit, "-dirty" appended where it has uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return "unknown"
    return done.stdout.strip() or "unknown"
