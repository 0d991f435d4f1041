"""What export would refuse is refused before the first epoch, in one sentence."""

from pathlib import Path

import pytest

from models.bundle.errors import UserError
from training import cli

NET = """
import torch
from torch import nn
from models.nets.layers import Chain, PoolHead
from models.nets.multi_exit import MultiExitNet

class Tuple(Chain):
    def forward(self, features):
        return tuple(super().forward(features))

class Branch(Chain):
    def forward(self, features):
        return super().forward([-x if x.sum() > 0 else x for x in features])

class Together(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)

class Broken(nn.Module):
    def forward(self, x):
        return x @ x[:0]

def net(first, classes=10):
    segments = [first, Chain(nn.Conv2d(4, 4, 3), nn.ReLU())]
    return MultiExitNet(segments, [PoolHead(4, classes), PoolHead(4, classes)])

def stem(kind=Chain, *more):
    return kind(nn.Conv2d(1, 4, 3), *more)

good = lambda shape, classes: net(stem())
tuples = lambda shape, classes: net(stem(Tuple))
branches = lambda shape, classes: net(stem(Branch))
together = lambda shape, classes: net(stem(Chain, Together()))
statistics = lambda shape, classes: net(stem(Chain, nn.BatchNorm2d(4, track_running_stats=False)))
few_classes = lambda shape, classes: net(stem(), 7)
broken = lambda shape, classes: net(stem(Chain, Broken()))
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NET)
    return path


def train(net: str, run: Path, *settings: str) -> None:
    cli.train(run, "digits", net, "digits", ["epochs=1", "images_per_class=20", *settings])


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        ("tuples", r"^segment 1 returns a tuple of Tensor; features must be a list of tensors$"),
        ("few_classes", r"^exit head 1 returns \[4, 7\], not \[4, 10\]: one logit for each of the"),
        ("branches", r"^segment_1 cannot be exported: .*data-dependent"),
        ("together", r"^exit 1 answers a row otherwise when others are in its batch"),
        ("statistics", r"^exit 1 answers a row otherwise when others are in its batch"),
    ],
)
def test_a_network_that_cannot_be_exported_is_refused_at_once(
    function: str, complaint: str, nets: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint) as refused:
        train(f"{nets}:{function}", tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "run").glob("*.pt"))


def test_a_traceback_of_the_users_code_has_a_line_before_it(
    nets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="size"):
        train(f"{nets}:broken", tmp_path / "run")
    assert f"{nets}:broken failed; the traceback is of that code:" in capsys.readouterr().err


def test_a_good_network_is_trained(
    nets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(f"{nets}:good", tmp_path / "run")
    assert (tmp_path / "run" / "best.pt").is_file()


def test_too_few_rows_to_calibrate_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^30 rows are kept for calibration, export needs 32"):
        train("msdnet-tiny", tmp_path / "run", "calibration_per_class=3")
