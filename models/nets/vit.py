"""Vision transformers with exits: Dosovitskiy et al. (ICLR 2021), small and for small images.

Exits read the mean of all tokens, which serves as well as a class token (Beyer et al. 2022,
arXiv 2205.01580) and needs no blocks to gather it first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.nets.layers import Chain
from models.nets.multi_exit import Features, MultiExitNet, NetError


@dataclass(frozen=True)
class ViTConfig:
    """Shape of a vision transformer: one token per `patch` x `patch` pixels, `width` wide."""

    blocks: tuple[int, ...]  # of each segment
    patch: int
    width: int
    heads: int  # of attention
    mlp_factor: int = 4


class Tokens(nn.Module):
    """Images to (batch, tokens, width): patches, projected, plus a learned vector per position."""

    def __init__(self, config: ViTConfig, image_shape: Sequence[int]) -> None:
        super().__init__()
        height, width, channels = image_shape
        patch = config.patch
        if height % patch or width % patch:
            raise NetError(f"{height}x{width} pixels cannot be cut into {patch}x{patch} patches")
        self.patches = nn.Conv2d(channels, config.width, patch, patch)
        num_tokens = (height // patch) * (width // patch)
        self.positions = nn.Parameter(torch.empty(num_tokens, config.width))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.patches(images).flatten(2).transpose(1, 2)
        return tokens + self.positions


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, width)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        split = self.queries_keys_values(x).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # (batch, head, token, channel) each
        scale = queries.shape[-1] ** -0.5
        weights = (queries * scale @ keys.transpose(-2, -1)).softmax(-1)
        attended: Tensor = self.out((weights @ values).transpose(1, 2).flatten(2))
        return attended


class Block(nn.Module):
    """Attention, then a two-layer perceptron; each normalises its input, and is added to it."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, inner = config.width, config.mlp_factor * config.width
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, config.heads))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        result: Tensor = x + self.mlp(x)
        return result


class MeanTokenHead(nn.Module):
    """Logits from the mean of the normalised tokens."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, features: Features) -> Tensor:
        (x,) = features
        logits: Tensor = self.linear(self.norm(x).mean(dim=1))
        return logits


def init_weights(module: nn.Module) -> None:
    """Linear layers as in DeiT (Touvron et al. 2021): truncated normal of 0.02, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def vit(config: ViTConfig, image_shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """Builds a vision transformer for (height, width, channels); features are the tokens."""
    segments: list[nn.Module] = []
    for num_blocks in config.blocks:
        layers: list[nn.Module] = [] if segments else [Tokens(config, image_shape)]
        segments.append(Chain(*layers, *(Block(config) for _ in range(num_blocks))))
    net = MultiExitNet(segments, [MeanTokenHead(config.width, num_classes) for _ in segments])
    net.apply(init_weights)
    return net


VIT_TINY = ViTConfig(blocks=(2, 2, 2, 2), patch=4, width=192, heads=3)
"""Width and heads of DeiT-Ti, eight blocks deep, with patches for 32 pixels."""
