"""Networks of a user's own, by file or module, and what can be wrong with their names."""

from pathlib import Path

import pytest
import torch

from models.nets.multi_exit import NetError
from models.nets.presets import build

SHAPE = (8, 8, 1)
SOURCE = """
import torch
from torch import nn

from models.nets.layers import PoolHead
from models.nets.multi_exit import MultiExitNet

A_LIST = []

class Doubled(nn.Module):
    def forward(self, features):
        return [joined(x, x) for x in features]

def joined(*parts):
    return torch.cat(parts, dim=1)

def build(image_shape, num_classes):
    height, width, channels = image_shape
    return MultiExitNet([Doubled()], [PoolHead(2 * channels, num_classes)])

def unfinished(image_shape, num_classes):
    return nn.Identity()

def headless(image_shape, num_classes):
    return MultiExitNet([Doubled(), Doubled()], [PoolHead(2, num_classes)])
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my net.py"
    path.write_text(SOURCE)
    return path


def test_a_function_in_a_file_builds_the_network(file: Path) -> None:
    net = build(f"{file}:build", SHAPE, 10)
    assert [tuple(z.shape) for z in net(torch.zeros(2, 1, 8, 8))] == [(2, 10)]


def test_a_function_in_a_module_builds_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_nets").mkdir()
    (tmp_path / "own_nets" / "small.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    assert build("own_nets.small:build", SHAPE, 10).num_exits == 1


def test_a_network_from_a_file_can_be_compiled(file: Path) -> None:
    net, images = build(f"{file}:build", SHAPE, 10), torch.randn(2, 1, 8, 8)
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(images)[0], net(images)[0])


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("FILE:bulid", "FILE has no function 'bulid'"),
        ("FILE:A_LIST", "FILE has no function 'A_LIST'"),
        ("FILE:unfinished", "FILE:unfinished returned a Identity, not a MultiExitNet"),
        ("FILE:headless", "2 segments need as many exit heads, not 1"),
        ("FILE", "no network 'FILE'; there are msdnet-7, "),
        ("/nowhere/net.py:build", "/nowhere/net.py cannot be imported: "),
        ("no_such_package.nets:build", "no_such_package.nets cannot be imported: No module"),
        ("..nets:build", "no network '..nets:build'; there are "),
        (":build", "no network ':build'; there are "),
    ],
)
def test_what_is_no_network_is_refused_in_one_sentence(
    name: str, complaint: str, file: Path
) -> None:
    with pytest.raises(NetError) as refused:
        build(name.replace("FILE", str(file)), SHAPE, 10)
    assert str(refused.value).startswith(complaint.replace("FILE", str(file)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("source", ["def build(:", "import no_such_package"])
def test_a_file_that_does_not_run_is_refused_by_name(source: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(NetError, match=r"broken\.py cannot be imported: "):
        build(f"{path}:build", SHAPE, 10)


def test_a_traceback_of_a_file_that_raises_has_a_line_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "raises.py"
    path.write_text("width = base * 2")
    with pytest.raises(NameError, match="base"):
        build(f"{path}:build", SHAPE, 10)
    assert f"{path}:build failed; the traceback is of that code:" in capsys.readouterr().err
