"""Exits on a network of your own: a plain CNN of six layers, cut after every second one."""

from collections.abc import Sequence

from torch import nn

from models.nets.layers import Chain, PoolHead
from models.nets.multi_exit import MultiExitNet


def conv(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(),
    )


def plain_cnn(channels: int) -> nn.Sequential:
    """The network as it was, without its classifier."""
    return nn.Sequential(
        conv(channels, 16),
        conv(16, 16),
        conv(16, 32, stride=2),
        conv(32, 32),
        conv(32, 64, stride=2),
        conv(64, 64),
    )


def build(image_shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """Three segments and a head for each; `image_shape` is (height, width, channels)."""
    layers = list(plain_cnn(image_shape[-1]))
    segments = [Chain(*layers[:2]), Chain(*layers[2:4]), Chain(*layers[4:])]
    heads = [PoolHead(width, num_classes) for width in (16, 32, 64)]
    return MultiExitNet(segments, heads)
