"""Whole-batch image preparation, on whatever device the batch is."""

import torch
from torch import Tensor
from torch.nn import functional as F


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 (batch, height, width, channels) to float (batch, channels, height, width).

    `mean` and `std` are per channel, of pixels scaled to [0, 1]. The result is channels-last in
    memory.
    """
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def flipped(images: Tensor) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    is_flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(is_flipped, images.flip(3), images)


def shifted(images: Tensor, padding: int) -> Tensor:
    """Each image padded with zeros, the mean colour, then cropped back at a random place."""
    n, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    offsets = torch.randint(2 * padding + 1, (2, n, 1), device=device)
    rows = offsets[0] + torch.arange(height, device=device)
    columns = offsets[1] + torch.arange(width, device=device)
    index = torch.arange(n, device=device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of pixels scaled to [0, 1].

    The deviation is at least one grey level, so that a constant channel normalises to zero.
    """
    flat = images.reshape(-1, images.shape[-1])
    counts = torch.stack([torch.bincount(channel, minlength=256) for channel in flat.T]).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum(1) / len(flat)
    variance = (counts * values**2).sum(1) / len(flat) - mean**2
    return mean.float(), variance.clamp(min=(1 / 255) ** 2).sqrt().float()
