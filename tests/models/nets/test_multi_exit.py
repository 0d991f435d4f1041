import pytest
import torch
from torch import nn

from models.nets.multi_exit import Features, MultiExitNet
from models.nets.presets import build


class Scaled(nn.Module):
    """Features times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Features) -> Features:
        return [x * self.factor for x in features]


class Summed(nn.Module):
    def forward(self, features: Features) -> torch.Tensor:
        return features[0].flatten(1).sum(dim=1, keepdim=True)


def test_each_segment_takes_the_features_of_the_one_before() -> None:
    net = MultiExitNet([Scaled(2), Scaled(3), Scaled(5)], [Summed(), Summed(), Summed()])
    logits = net(torch.ones(1, 1, 2, 2))
    assert [z.item() for z in logits] == [8, 24, 120]


def test_forward_is_the_chain_of_split() -> None:
    net = build("msdnet-tiny", (16, 16, 3), 7).eval()
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        features = [images]
        for (segment, head), expected in zip(net.split(), net(images), strict=True):
            features = segment(features)
            assert torch.equal(head(features), expected)


def test_every_segment_needs_a_head() -> None:
    with pytest.raises(ValueError, match="2 segments need as many exit heads, not 1"):
        MultiExitNet([Scaled(1), Scaled(1)], [Summed()])
    with pytest.raises(ValueError, match="0 segments"):
        MultiExitNet([], [])
