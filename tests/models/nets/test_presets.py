"""The presets against the published cost of each exit, and their shapes."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.nets.multi_exit import MultiExitNet
from models.nets.presets import MSDNETS, build

PUBLISHED_ALONE = {
    "msdnet-11": (15.3, 28.0, 44.8, 56.3, 70.2, 86.4, 110.3, 124.2, 140.4, 159.0, 170.0),
}
PUBLISHED_ALL_HEADS = {
    "msdnet-7": (15.0, 25.3, 36.8, 46.0, 56.9, 66.5, 75.5),
    "msdnet-11": (15.3, 30.8, 51.3, 65.2, 82.3, 102.7, 131.6, 148.7, 169.1, 192.7, 209.7),
}
"""M MACs on 32x32 CIFAR images with 100 classes."""

PUBLISHED_PARAMETERS = (0.37, 0.78, 1.14, 1.52, 1.96, 2.47, 2.93, 3.37, 3.88, 4.45, 5.07)
"""Millions, of the 11-exit net up to each exit, all heads so far."""


def counted(piece: Callable[[Any], Any], features: list[torch.Tensor]) -> tuple[int, Any]:
    """MACs of one call, and what it returned."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = piece(features)
    return counter.get_total_flops() // 2, outputs


def macs_per_piece(net: MultiExitNet) -> tuple[list[int], list[int]]:
    features = [torch.zeros(1, 3, 32, 32)]
    segments, heads = [], []
    for segment, head in net.eval().split():
        macs, features = counted(segment, features)
        segments.append(macs)
        heads.append(counted(head, features)[0])
    return segments, heads


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED_ALL_HEADS)
def test_macs_of_all_heads_so_far_are_the_published_ones(name: str) -> None:
    segments, heads = macs_per_piece(build(name, 3, 100))
    pieces = [s + h for s, h in zip(segments, heads, strict=True)]
    millions = [macs / 1e6 for macs in accumulate(pieces)]
    assert millions == pytest.approx(PUBLISHED_ALL_HEADS[name], rel=0.01)


@pytest.mark.parametrize("name", PUBLISHED_ALONE)
def test_macs_of_each_exit_alone_are_the_published_ones(name: str) -> None:
    segments, heads = macs_per_piece(build(name, 3, 100))
    alone = [(s + h) / 1e6 for s, h in zip(accumulate(segments), heads, strict=True)]
    assert alone == pytest.approx(PUBLISHED_ALONE[name], rel=0.01)


def test_parameters_up_to_each_exit_are_the_published_ones() -> None:
    pieces = [num_parameters(s) + num_parameters(h) for s, h in build("msdnet-11", 3, 100).split()]
    millions = [n / 1e6 for n in accumulate(pieces)]
    assert millions == pytest.approx(PUBLISHED_PARAMETERS, abs=0.0051)


def test_macs_of_a_head_are_those_of_its_layers() -> None:
    """64 channels at 8x8, two 3x3 convolutions of width 32 and stride 2, and a linear layer."""
    _, heads = macs_per_piece(build("msdnet-tiny", 3, 10))
    assert heads[0] == 4 * 4 * 64 * 32 * 9 + 2 * 2 * 32 * 32 * 9 + 32 * 10


@pytest.mark.parametrize("name", MSDNETS)
@pytest.mark.parametrize(("size", "channels", "classes"), [(8, 1, 10), (32, 3, 100)])
def test_every_exit_gives_one_logit_per_class(
    name: str, size: int, channels: int, classes: int
) -> None:
    net = build(name, channels, classes).eval()
    with torch.no_grad():
        logits = net(torch.randn(2, channels, size, size))
    assert [tuple(z.shape) for z in logits] == [(2, classes)] * net.num_exits


@pytest.mark.parametrize("name", MSDNETS)
def test_equal_seeds_give_equal_weights_and_others_do_not(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(name, 3, 100).parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError):
        build("msdnet-8", 3, 100)
