"""ResNets with exits: He et al. (CVPR 2016), a plain network cut after each of its stages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from models.nets.layers import (
    Chain,
    ConvBNReLU,
    ConvHead,
    LargeImageStem,
    PoolHead,
    init_weights,
)
from models.nets.multi_exit import MultiExitNet


@dataclass(frozen=True)
class ResNetConfig:
    """Shape of a ResNet of basic blocks. Each stage is a segment; all but the first halve the size.

    Early exits have MSDNet's convolutional heads, `head_channels` wide; the last has ResNet's own.
    """

    blocks: tuple[int, ...]  # of each stage
    widths: tuple[int, ...]
    head_channels: int = 128
    large_images: bool = False  # begins by quartering their size


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the first of them and the shortcut may be strided."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ConvBNReLU(num_in, num_out, 3, stride, bias=False),
            nn.Conv2d(num_out, num_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_out),
        )
        self.shortcut = nn.Sequential()
        if num_in != num_out or stride > 1:
            self.shortcut.append(nn.Conv2d(num_in, num_out, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(num_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


def resnet(config: ResNetConfig, image_shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """Builds a ResNet; features are one tensor, (batch, channels, height, width)."""
    stem = LargeImageStem if config.large_images else partial(ConvBNReLU, kernel=3)
    num_in = config.widths[0]
    layers: list[nn.Module] = [stem(image_shape[-1], num_in, bias=False)]
    segments: list[nn.Module] = []
    heads: list[nn.Module] = []
    for num_blocks, width in zip(config.blocks, config.widths, strict=True):
        for block in range(num_blocks):
            stride = 2 if segments and block == 0 else 1
            layers.append(Block(num_in, width, stride))
            num_in = width
        segments.append(Chain(*layers))
        layers = []
        heads.append(ConvHead(width, config.head_channels, num_classes, bias=False))
    heads[-1] = PoolHead(num_in, num_classes)
    net = MultiExitNet(segments, heads)
    net.apply(init_weights)
    return net


RESNET_18 = ResNetConfig(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512))
"""ResNet-18 for small images: a 3x3 convolution comes first, and nothing is pooled after it."""

RESNET_18_IMAGENET = replace(RESNET_18, large_images=True)
"""ResNet-18 as published, for 224 pixels."""
