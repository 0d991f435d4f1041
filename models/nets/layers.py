"""Layers and exit heads that several networks share."""

from torch import Tensor, nn

from models.nets.multi_exit import Features


class ConvBNReLU(nn.Sequential):
    """Convolution, batch normalisation, ReLU; padded so that only the stride changes the size."""

    def __init__(
        self, num_in: int, num_out: int, kernel: int, stride: int = 1, *, bias: bool
    ) -> None:
        super().__init__(
            nn.Conv2d(num_in, num_out, kernel, stride, padding=kernel // 2, bias=bias),
            nn.BatchNorm2d(num_out),
            nn.ReLU(inplace=True),
        )


class LargeImageStem(nn.Sequential):
    """Images to a quarter of their size, as networks for 224-pixel images begin."""

    def __init__(self, num_in: int, num_out: int, *, bias: bool) -> None:
        super().__init__(
            ConvBNReLU(num_in, num_out, 7, 2, bias=bias),
            nn.MaxPool2d(3, stride=2, padding=1),
        )


class Chain(nn.Sequential):
    """Layers one after another as a segment: features are one tensor."""

    def forward(self, features: Features) -> Features:
        (x,) = features
        return [super().forward(x)]  # type: ignore[no-untyped-call]


class Head(nn.Sequential):
    """Logits from the last tensor of the features."""

    def forward(self, features: Features) -> Tensor:
        logits: Tensor = super().forward(features[-1])  # type: ignore[no-untyped-call]
        return logits


class LastMean(nn.Module):
    """The mean over the last axis: as ONNX one node, where adaptive pooling makes a dozen."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1)


class PoolHead(Head):
    """Mean over all positions of (batch, channels, height, width), then a linear layer."""

    def __init__(self, num_in: int, num_classes: int) -> None:
        super().__init__(nn.Flatten(2), LastMean(), nn.Linear(num_in, num_classes))


class ConvHead(Head):
    """Two strided 3x3 convolutions of `width` channels before the pooling: MSDNet's exit head.

    An early layer's channels say too little by their means alone.
    """

    def __init__(self, num_in: int, width: int, num_classes: int, *, bias: bool) -> None:
        super().__init__(
            ConvBNReLU(num_in, width, 3, 2, bias=bias),
            ConvBNReLU(width, width, 3, 2, bias=bias),
            nn.Flatten(2),
            LastMean(),
            nn.Linear(width, num_classes),
        )


def init_weights(module: nn.Module) -> None:
    """He initialisation by fan-out for convolutions, as in the code of MSDNet and of ResNet."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
