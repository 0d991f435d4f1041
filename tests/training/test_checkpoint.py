import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.bundle.image_input import ImageInput
from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.config import TrainConfig


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def saved() -> Checkpoint:
    return Checkpoint(
        config=TrainConfig(data="digits", net="msdnet-tiny", decay_epochs=(3, 5), seed=7),
        epoch=2,
        step=3,
        order=torch.tensor([2, 0, 1]),
        loss_sum=torch.tensor(1.5),
        num_correct=torch.tensor([4, 5]),
        distillation_temperature=1.05**3,
        best_score=0.1 + 0.2,
        net={"weight": torch.tensor([1.0, float("nan"), 1e-45])},
        average=None,
        optimizer={"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        random_state=checkpoint.random_state(),
        labels=["ant", "bee"],
        input=ImageInput(height=8, width=8, channels=1, resize="crop"),
        mean=[0.3],
        std=[0.4],
        git_commit="abc",
    )


def test_what_was_saved_is_loaded(saved: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(saved, tmp_path / "last.pt")
    loaded = checkpoint.load(tmp_path / "last.pt")
    weight = loaded.net["weight"]
    assert weight.numpy().tobytes() == saved.net["weight"].numpy().tobytes()
    assert loaded.optimizer["state"][0]["momentum_buffer"].tolist() == [1, 1]
    assert loaded.optimizer["param_groups"] == [{"lr": 0.1}]
    assert torch.equal(loaded.random_state["cpu"], saved.random_state["cpu"])
    for name in ("order", "loss_sum", "num_correct"):
        assert torch.equal(getattr(loaded, name), getattr(saved, name))
    tensors = dict.fromkeys(
        ("net", "optimizer", "random_state", "order", "loss_sum", "num_correct")
    )
    assert vars(loaded) | tensors == vars(saved) | tensors


def test_the_weights_are_the_average_where_there_is_one(saved: Checkpoint) -> None:
    assert saved.weights is saved.net
    average = {"module.weight": torch.ones(1), "n_averaged": torch.tensor(3)}
    assert replace(saved, average=average).weights == {"weight": torch.ones(1)}


def test_weights_of_another_network_are_refused_in_one_sentence(saved: Checkpoint) -> None:
    """Whose file was changed since."""
    with pytest.raises(CheckpointError, match=r"^msdnet-tiny gives another network than the one"):
        saved.network()


def test_the_random_state_goes_on_where_it_was() -> None:
    state = checkpoint.random_state()
    expected = torch.rand(3)
    checkpoint.set_random_state(state)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_left_aside(saved: Checkpoint, tmp_path: Path) -> None:
    checkpoint.save(saved, tmp_path / "last.pt")
    checkpoint.save(replace(saved, epoch=3), tmp_path / "last.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.load(tmp_path / "last.pt").epoch == 3


def test_a_full_disk_leaves_the_old_file_and_no_other(saved: Checkpoint, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk's."""
    checkpoint.save(saved, tmp_path / "last.pt")
    large = replace(saved, epoch=3, net={"weight": torch.ones(100_000)})
    script = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from training import checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "loaded = checkpoint.load(Path(sys.argv[1]))\n"
        "try: checkpoint.save(loaded, Path(sys.argv[2]))\n"
        "except checkpoint.CheckpointError as error: print(error)\n"
    )
    checkpoint.save(large, tmp_path / "large.pt")
    command = [sys.executable, "-c", script, str(tmp_path / "large.pt"), str(tmp_path / "last.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot save {tmp_path / 'last.pt'}: "), done.stderr
    assert done.stdout.endswith("; what was saved there before is kept\n")
    assert checkpoint.load(tmp_path / "last.pt").epoch == 2
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "large.pt"}


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"^no checkpoint at {tmp_path / 'x.pt'}$"):
        checkpoint.load(tmp_path / "x.pt")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(saved: Checkpoint, tmp_path: Path, kept: float) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(saved, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=f"^{path} is damaged or no checkpoint: "):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content", [{}, [1, 2], torch.ones(1), {"schema": checkpoint.SCHEMA, "epoch": 1}]
)
def test_a_file_of_something_else(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last.pt is damaged or no checkpoint: "):
        checkpoint.load(tmp_path / "last.pt")


def test_another_schema_is_another_version(saved: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(saved, path)
    torch.save(torch.load(path, weights_only=True) | {"schema": checkpoint.SCHEMA + 1}, path)
    with pytest.raises(CheckpointError, match=r"last.pt was written by another version"):
        checkpoint.load(path)


@pytest.mark.parametrize("is_plain_pickle", [True, False])
def test_code_in_a_checkpoint_never_runs(tmp_path: Path, is_plain_pickle: bool) -> None:
    path, sprung = tmp_path / "last.pt", tmp_path / "sprung"
    trap = {"schema": 1, "net": Trap(sprung)}
    if is_plain_pickle:
        path.write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, path)
    with pytest.raises(CheckpointError, match=r"last.pt is damaged or no checkpoint: "):
        checkpoint.load(path)
    assert not sprung.exists()
