"""Multi-Scale DenseNets: Huang et al. (ICLR 2018), and the wider one of Phuong & Lampert (2019).

Every layer keeps features at several scales, finest first. At each scale it appends new channels
computed from the same scale and, half of them, from the next finer one by a strided convolution.
The exit heads read the coarsest scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from models.nets.layers import ConvBNReLU, ConvHead, LargeImageStem, init_weights
from models.nets.multi_exit import Features, MultiExitNet


@dataclass(frozen=True)
class MSDNetConfig:
    """Shape of an MSDNet.

    Scale s has `base` * `scale_factors[s]` channels after the first layer, and every further
    layer adds `growth` * `scale_factors[s]`. `bottleneck` is the width of a scale's 1x1
    convolution in multiples of the channels the 3x3 convolution after it makes.

    `prune` says when fine scales stop being computed: "evenly" drops one after every
    num_layers / num_scales layers, and a transition follows each drop; "late" drops them in the
    last layers only, with transitions after one and two thirds of all layers. A transition keeps
    `reduction` of the channels.
    """

    layers: tuple[int, ...]  # of each segment
    base: int
    growth: int
    scale_factors: tuple[int, ...]  # finest first
    bottleneck: tuple[int, ...]
    prune: Literal["evenly", "late"]
    conv_bias: bool
    reduction: float = 0.5
    head_channels: int | None = 128  # None: as many as the head is given
    large_images: bool = False  # begins by quartering their size


class Bottleneck(nn.Sequential):
    """A 1x1 convolution to at most `width` times `num_out` channels, then a 3x3 one."""

    def __init__(self, num_in: int, num_out: int, width: int, stride: int, *, bias: bool) -> None:
        num_inner = min(num_in, width * num_out)
        super().__init__(
            ConvBNReLU(num_in, num_inner, 1, bias=bias),
            ConvBNReLU(num_inner, num_out, 3, stride, bias=bias),
        )


class FirstLayer(nn.Module):
    """Images to features: one 3x3 convolution per scale, each fed by the next finer scale."""

    def __init__(self, config: MSDNetConfig, in_channels: int) -> None:
        super().__init__()
        bias = config.conv_bias
        first, *others = widths = [config.base * factor for factor in config.scale_factors]
        stem = LargeImageStem if config.large_images else partial(ConvBNReLU, kernel=3)
        self.scales = nn.ModuleList([stem(in_channels, first, bias=bias)])
        for num_in, num_out in zip(widths, others, strict=False):
            self.scales.append(ConvBNReLU(num_in, num_out, 3, 2, bias=bias))

    def forward(self, features: Features) -> Features:
        (x,) = features
        outputs = []
        for scale in self.scales:
            x = scale(x)
            outputs.append(x)
        return outputs


class DenseLayer(nn.Module):
    """Appends new channels to every scale that is kept, from that scale and the next finer one.

    Takes `num_in` scales of `width` units each and hands on the coarsest `num_out` of them.
    """

    def __init__(self, config: MSDNetConfig, width: int, num_in: int, num_out: int) -> None:
        super().__init__()
        self.num_dropped = num_in - num_out
        factors, bias = config.scale_factors, config.conv_bias
        same: list[nn.Module] = []
        finer: list[nn.Module] = []
        for scale in range(len(factors) - num_out, len(factors)):
            has_finer = scale > len(factors) - num_in
            num_new = config.growth * factors[scale] // (2 if has_finer else 1)
            for convs, source in ((same, scale), (finer, scale - 1)):
                if source == scale or has_finer:
                    stride, bottleneck = 1 + scale - source, config.bottleneck[source]
                    channels = width * factors[source]
                    convs.append(Bottleneck(channels, num_new, bottleneck, stride, bias=bias))
        self.same, self.finer = nn.ModuleList(same), nn.ModuleList(finer)

    def forward(self, features: Features) -> Features:
        kept = features[self.num_dropped :]
        new = [[x, conv(x)] for conv, x in zip(self.same, kept, strict=True)]
        first = len(kept) - len(self.finer)  # the finest scale of all has no finer one
        for parts, conv, x in zip(new[first:], self.finer, features, strict=False):
            parts.insert(1, conv(x))
        return [torch.cat(parts, dim=1) for parts in new]


class Transition(nn.Module):
    """Narrows each of `num_scales` scales, `width` units wide, with a 1x1 convolution."""

    def __init__(self, config: MSDNetConfig, width: int, num_scales: int) -> None:
        super().__init__()
        narrow = int(width * config.reduction)
        self.scales = nn.ModuleList(
            ConvBNReLU(width * factor, narrow * factor, 1, bias=config.conv_bias)
            for factor in config.scale_factors[-num_scales:]
        )

    def forward(self, features: Features) -> Features:
        return [scale(x) for scale, x in zip(self.scales, features, strict=True)]


def num_scales(config: MSDNetConfig, layer: int) -> int:
    """Scales that exist after `layer`; layer 0 is the first, undense one."""
    total, scales = sum(config.layers), len(config.scale_factors)
    if config.prune == "evenly":
        interval = -(-total // scales)
        return scales - max(0, layer - 1) // interval
    return min(scales, total - layer + 1)


def has_transition(config: MSDNetConfig, layer: int) -> bool:
    """Whether a transition follows `layer`."""
    total = sum(config.layers)
    if config.prune == "evenly":
        return num_scales(config, layer) < num_scales(config, layer - 1)
    return layer in (total // 3, 2 * total // 3)


def msdnet(config: MSDNetConfig, image_shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """Builds an MSDNet; features are one tensor per live scale, finest first."""
    segments: list[nn.Module] = []
    heads: list[nn.Module] = []
    width, layer = config.base, 0
    for num_layers in config.layers:
        modules: list[nn.Module] = [] if segments else [FirstLayer(config, image_shape[-1])]
        for _ in range(num_layers):
            layer += 1
            num_in, num_out = num_scales(config, layer - 1), num_scales(config, layer)
            modules.append(DenseLayer(config, width, num_in, num_out))
            width += config.growth
            if has_transition(config, layer):
                modules.append(Transition(config, width, num_out))
                width = int(width * config.reduction)
        segments.append(nn.Sequential(*modules))
        num_in = width * config.scale_factors[-1]
        head_width = config.head_channels or num_in
        heads.append(ConvHead(num_in, head_width, num_classes, bias=config.conv_bias))
    net = MultiExitNet(segments, heads)
    net.apply(init_weights)
    return net


MSDNET_7 = MSDNetConfig(
    layers=(4, 2, 2, 2, 2, 2, 2),
    base=16,
    growth=6,
    scale_factors=(1, 2, 4),
    bottleneck=(1, 2, 4),
    prune="evenly",
    conv_bias=False,
)
"""The original 7-exit CIFAR MSDNet ("even", base 4, step 2, 16 channels, growth 6)."""

MSDNET_11 = MSDNetConfig(
    layers=(4,) + (2,) * 10,
    base=1,
    growth=1,
    scale_factors=(6, 12, 24),
    bottleneck=(4, 4, 4),
    prune="late",
    conv_bias=True,
)
"""The 11-exit CIFAR MSDNet of Phuong & Lampert (2019)."""

MSDNET_IMAGENET = MSDNetConfig(
    layers=(10, 7, 7, 7, 7),
    base=32,
    growth=16,
    scale_factors=(1, 2, 4, 4),
    bottleneck=(1, 2, 4, 4),
    prune="evenly",
    conv_bias=True,
    head_channels=None,
    large_images=True,
)
"""The 5-exit ImageNet MSDNet of Phuong & Lampert (2019), for 224 pixels.

Their paper says 4 scales, 38 layers and exits after every seventh layer from the tenth; their code
has this first layer, biases, and heads as wide as what they are given. Neither says the widths:
these are the original ImageNet MSDNet's (kalviny/MSDNet-PyTorch, `run_imagenet.sh`), which their
code's default first width is, too. That net has 35 layers, seven to each exit.
"""
