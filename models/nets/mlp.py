"""Multi-layer perceptrons with exits, for rows of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from models.nets.layers import Chain, Head
from models.nets.multi_exit import MultiExitNet


@dataclass(frozen=True)
class MLPConfig:
    """`blocks` are the residual blocks of each segment, of `width` channels."""

    blocks: tuple[int, ...]
    width: int
    dropout: float = 0.1


class Block(nn.Module):
    """A two-layer perceptron that normalises its input and is added to it."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        width = config.width
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layers(x)
        return result


def mlp(config: MLPConfig, shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """Builds a perceptron; `shape` is the number of numbers in a row."""
    (num_numbers,) = shape
    segments: list[nn.Module] = []
    for num_blocks in config.blocks:
        first: list[nn.Module] = [] if segments else [nn.Linear(num_numbers, config.width)]
        segments.append(Chain(*first, *(Block(config) for _ in range(num_blocks))))
    width = config.width
    heads = [Head(nn.LayerNorm(width), nn.Linear(width, num_classes)) for _ in segments]
    return MultiExitNet(segments, heads)


MLP = MLPConfig(blocks=(1, 1, 1, 1), width=128)
