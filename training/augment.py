"""Whole-batch image preparation, on whatever device the batch is."""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import Mixing


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


def cut_out(images: Tensor, size: int) -> Tensor:
    """Each image with a square of `size` pixels blanked to the mean colour, at a random centre.

    DeVries & Taylor (2017): the square may reach over the border.
    """
    n, _, height, width = images.shape
    rows = in_window(height, torch.randint(height, (n, 1), device=images.device), size)
    columns = in_window(width, torch.randint(width, (n, 1), device=images.device), size)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def in_window(length: int, centre: Tensor, size: Tensor | int) -> Tensor:
    """Whether each of `length` places, the last axis, is in a window of `size` at `centre`."""
    places = torch.arange(length, device=centre.device) - centre
    return (-size <= 2 * places) & (2 * places < size)


PARTNER_OFFSET = 2
"""Each image is mixed with the one so many rows before: as random as any, since batches are, and
with unlabelled rows in every second place a labelled row meets a labelled one."""


def mixed(images: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor]:
    """Each image mixed with its partner, and the share that is its own, one for the batch.

    That share is uniform in half of the calls and 1 in the others. "mixup" adds pixels (Zhang et
    al., 2018); "cutmix" fills a box of the partner's (Yun et al., 2019).
    """
    drawn = torch.rand(2, device=images.device)
    share = torch.where(drawn[0] < 0.5, drawn[1], 1.0)
    partners = images.roll(PARTNER_OFFSET, dims=0)
    if mixing == "mixup":
        return partners.lerp(images, share), share
    height, width = images.shape[2:]
    centres, side = torch.rand(2, device=images.device), (1 - share).sqrt()
    rows = in_window(height, centres[0] * height, side * height)
    columns = in_window(width, centres[1] * width, side * width)
    box = rows[:, None] & columns
    return torch.where(box, partners, images), 1 - box.float().mean()


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
