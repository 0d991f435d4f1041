"""Processes of torchrun take the steps that one process takes on the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
    event_accumulator,
)

from models.bundle.errors import UserError
from tests.training.runs import CPU
from training import checkpoint, loop
from training.config import RECIPES, TrainConfig
from training.distributed import World
from training.run import BEST, LAST, Run

CONFIG = TrainConfig(
    data="digits",
    net="msdnet-tiny",
    epochs=3,
    batch_size=32,
    micro_batches=2,
    schedule="linear",
    learning_rate=0.02,
    distillation_confidence=0.18,
    crop_padding=1,
    selection_per_class=10,
    images_per_class=42,
)
TRAIN = """
import sys
from pathlib import Path
import torch
from training import loop
from training.config import TrainConfig
from training.distributed import leave
torch.set_num_threads(1)
loop.train(TrainConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), print)
leave()
"""
KEEP_ORDERS = """
import torch
from training.run import Run

train_epoch = Run.train_epoch

def kept(run):
    means = train_epoch(run)
    torch.save(run.order, run.directory / f"order-{run.epoch}-{run.world.rank}.pt")
    return means

Run.train_epoch = kept
"""


def torchrun(
    config: TrainConfig, directory: Path, code: str = TRAIN
) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine."""
    script = directory.parent / "train.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, str(script), config.model_dump_json(), str(directory)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def losses(directory: Path) -> list[float]:
    """The mean training loss of every epoch."""
    events = event_accumulator.EventAccumulator(str(directory / "tensorboard")).Reload()
    return [event.value for event in events.Scalars("loss")]


def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loop.train(CONFIG, tmp_path / "one", lambda _: None)
    torch.set_num_threads(threads)
    done = torchrun(CONFIG, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    curve = losses(tmp_path / "one")
    assert len(curve) == 3
    assert curve[2] < curve[0] - 1  # it learns
    assert losses(tmp_path / "two") == pytest.approx(curve, rel=1e-4)
    one, two = (checkpoint.load(tmp_path / name / LAST) for name in ("one", "two"))
    assert one.distillation_temperature == pytest.approx(two.distillation_temperature, rel=1e-9)
    assert one.distillation_temperature >= 1.05
    for name, weight in one.net.items():
        is_statistic = "running_" in name  # updated by every part, or by one part in each process
        if weight.is_floating_point() and not is_statistic:
            assert torch.allclose(weight, two.net[name], rtol=1e-3, atol=1e-4), name
    assert checkpoint.load(tmp_path / "two" / BEST).best_score > 0.15


def test_processes_have_one_order_of_texts(tmp_path: Path) -> None:
    """Each draws for the words that it drops; in a batch of both lengths one has more of them."""
    rows = [("a b" if row < 60 else "a b c d e f g h", "xy"[row % 2]) for row in range(120)]
    table = "".join(f"{text},{label}\n" for text, label in rows)
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\n" + table)
    values = {"data": str(tmp_path), "net": "text-tiny", "calibration_per_class": 0, "epochs": 2}
    batches = {"batch_size": 24, "micro_batches": 2}
    config = TrainConfig.model_validate(RECIPES["text"] | values | batches)
    done = torchrun(config, tmp_path / "run", KEEP_ORDERS + TRAIN)
    assert done.returncode == 0, done.stderr
    for epoch in (0, 1):
        one, two = (torch.load(tmp_path / f"run/order-{epoch}-{rank}.pt") for rank in (0, 1))
        assert torch.equal(one, two)
        assert sorted(one.tolist()) == list(range(120))


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    config, second = CONFIG.model_copy(update={"micro_batches": 1}), World(CPU.device, 1, 2)
    with pytest.raises(
        UserError,
        match=r"^1 micro-batches cannot be shared by 2 processes; try --set micro_batches=2$",
    ):
        Run(config, tmp_path, second)
