"""What stands between a bundle's input and a network: the first part of segment 1, by kind."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.bundle.manifest import AnyInput
from models.bundle.tensor_input import TensorInput
from models.bundle.text_input import TextInput
from models.nets.multi_exit import Features
from training.augment import normalised
from training.data.sources import Inputs


class Front(Protocol):
    """`names` are those of segment 1's inputs, `lengths` the length buckets, if there are any."""

    names: tuple[str, ...]
    lengths: tuple[int, ...]

    def prepared(self, inputs: Inputs) -> Features:
        """What the network is trained on."""
        ...

    def before(self, segment: nn.Module) -> nn.Module:
        """Segment 1 as it is exported: it takes the inputs as they come."""
        ...


def front_of(target: AnyInput, mean: Tensor, std: Tensor) -> Front:
    """`mean` and `std` are per channel of images, per number of rows; texts have none."""
    if isinstance(target, TextInput):
        return TextFront(target)
    if isinstance(target, TensorInput):
        return NumberFront(target, mean, std)
    return ImageFront(mean, std)


class ImageFront:
    """uint8 images, normalised."""

    names: tuple[str, ...] = ("images",)
    lengths: tuple[int, ...] = ()

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def prepared(self, inputs: Inputs) -> Features:
        (images,) = inputs
        return [normalised(images, self.mean, self.std)]

    def before(self, segment: nn.Module) -> nn.Module:
        return ImageSegment(segment, self.mean, self.std)


class TextFront:
    """Token numbers and what goes with them, as they are."""

    def __init__(self, target: TextInput) -> None:
        self.names: tuple[str, ...] = target.inputs
        self.lengths = target.length_buckets

    def prepared(self, inputs: Inputs) -> Features:
        return inputs

    def before(self, segment: nn.Module) -> nn.Module:
        return segment


class NumberFront:
    """Tensors of numbers as one, each number normalised."""

    lengths: tuple[int, ...] = ()

    def __init__(self, target: TensorInput, mean: Tensor, std: Tensor) -> None:
        self.names = tuple(part.name for part in target.tensors)
        self.mean, self.std = mean, std

    def prepared(self, inputs: Inputs) -> Features:
        return [(one_table(inputs) - self.mean) / self.std]

    def before(self, segment: nn.Module) -> nn.Module:
        return NumberSegment(segment, self.mean, self.std)


class ImageSegment(nn.Module):
    """Segment 1 with the normalisation in front: takes uint8 (batch, height, width, channels).

    The same arithmetic as `normalised`, but on whole planes: onnxruntime takes a quarter of the
    time for one image, less for more.
    """

    def __init__(self, segment: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.segment = segment
        self.shift, self.scale = (x.view(-1, 1, 1) for x in (255 * mean, 1 / (255 * std)))

    def forward(self, features: Features) -> Features:
        (images,) = features
        planes = images.permute(0, 3, 1, 2).float()
        outputs: Features = self.segment([(planes - self.shift) * self.scale])
        return outputs


class NumberSegment(nn.Module):
    """Segment 1 with the normalisation in front: takes float32 tensors, (batch, ...) each."""

    def __init__(self, segment: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.segment, self.shift, self.scale = segment, mean, 1 / std

    def forward(self, features: Features) -> Features:
        outputs: Features = self.segment([(one_table(features) - self.shift) * self.scale])
        return outputs


def one_table(parts: Sequence[Tensor]) -> Tensor:
    """All numbers of each row, (rows, numbers)."""
    return torch.cat([x[:, None] if x.dim() == 1 else x.flatten(1) for x in parts], dim=1)


def statistics(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every column; a constant column normalises to zero."""
    mean = table.double().mean(dim=0)
    std = table.double().std(dim=0, correction=0)
    return mean.float(), torch.where(std > 0, std, 1.0).float()


def resized(inputs: Sequence[Tensor], length: int) -> Inputs:
    """Texts cut at a length, or padded to it."""
    return [F.pad(x, (0, length - x.shape[1])) for x in inputs]
