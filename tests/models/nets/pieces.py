"""What a network's segments and heads cost."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.nets.multi_exit import Features, MultiExitNet


def counted(piece: Callable[[Any], Any], features: Features) -> tuple[int, Any]:
    """MACs of one call, and what it returned."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = piece(features)
    return counter.get_total_flops() // 2, outputs


def macs_per_piece(
    net: MultiExitNet, image_shape: tuple[int, int, int]
) -> tuple[list[int], list[int]]:
    """MACs of every segment and of every head, on one image of (height, width, channels)."""
    height, width, channels = image_shape
    features = [torch.zeros(1, channels, height, width)]
    segments, heads = [], []
    for segment, head in net.eval().split():
        macs, features = counted(segment, features)
        segments.append(macs)
        heads.append(counted(head, features)[0])
    return segments, heads


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
