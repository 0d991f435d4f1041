from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch import nn

from models.nets.msdnet import (
    MSDNET_7,
    MSDNET_11,
    MSDNET_IMAGENET,
    DenseLayer,
    FirstLayer,
    MSDNetConfig,
    has_transition,
    msdnet,
    num_scales,
)

FEATURES_7 = [
    [(40, 32), (80, 16), (160, 8)],
    [(52, 32), (104, 16), (208, 8)],
    [(70, 16), (140, 8)],
    [(94, 16), (188, 8)],
    [(118, 16), (236, 8)],
    [(152, 8)],
    [(200, 8)],
]
"""Channels and size of each scale after every segment: 16 + 6 a layer, times 1, 2 and 4; a
transition after layers 7 and 13, where the net has 58 and 65 units, halves its width."""


def test_features_of_the_7_exit_net_follow_from_its_growth_and_transitions() -> None:
    features = [torch.zeros(1, 3, 32, 32)]
    found = []
    with torch.no_grad():
        for segment, _ in msdnet(MSDNET_7, (32, 32, 3), 100).eval().split():
            features = segment(features)
            assert all(x.shape[2] == x.shape[3] for x in features)
            found.append([(x.shape[1], x.shape[2]) for x in features])
    assert found == FEATURES_7


def test_the_11_exit_net_has_the_papers_shape() -> None:
    assert list(accumulate(MSDNET_11.layers)) == [4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]
    layers = range(1, 25)
    assert [layer for layer in layers if has_transition(MSDNET_11, layer)] == [8, 16]
    assert [num_scales(MSDNET_11, layer) for layer in layers] == [3] * 22 + [2, 1]


def test_the_7_exit_net_drops_a_scale_after_every_third_of_its_layers() -> None:
    layers = range(1, 17)
    scales = [num_scales(MSDNET_7, layer) for layer in layers]
    assert scales == [3] * 6 + [2] * 6 + [1] * 4
    assert [layer for layer in layers if has_transition(MSDNET_7, layer)] == [7, 13]


def test_the_first_layer_halves_the_size_at_every_scale() -> None:
    outputs = FirstLayer(MSDNET_11, 3)([torch.zeros(2, 3, 32, 32)])
    assert [tuple(x.shape) for x in outputs] == [(2, 6, 32, 32), (2, 12, 16, 16), (2, 24, 8, 8)]


def test_the_imagenet_net_has_the_papers_shape() -> None:
    """Four scales and 38 layers, an exit after every seventh from the tenth."""
    assert list(accumulate(MSDNET_IMAGENET.layers)) == [10, 17, 24, 31, 38]
    layers = range(1, 39)
    scales = [num_scales(MSDNET_IMAGENET, layer) for layer in layers]
    assert scales == [4] * 10 + [3] * 10 + [2] * 10 + [1] * 8
    assert [layer for layer in layers if has_transition(MSDNET_IMAGENET, layer)] == [11, 21, 31]


def test_large_images_are_quartered_first() -> None:
    outputs = FirstLayer(MSDNET_IMAGENET, 3)([torch.zeros(1, 3, 224, 224)])
    assert [tuple(x.shape[1:]) for x in outputs] == [
        (32, 56, 56),
        (64, 28, 28),
        (128, 14, 14),
        (128, 7, 7),
    ]


def test_a_head_is_as_wide_as_its_input_unless_told() -> None:
    config = replace(MSDNET_7, head_channels=None)
    channels = [scales[-1][0] for scales in FEATURES_7]
    for width, head in zip(channels, msdnet(config, (32, 32, 3), 100).heads, strict=True):
        assert [m.out_channels for m in head.modules() if isinstance(m, nn.Conv2d)] == [width] * 2


def test_a_dense_layer_keeps_what_it_was_given_and_appends() -> None:
    features = FirstLayer(MSDNET_7, 3)([torch.randn(2, 3, 8, 8)])
    outputs = DenseLayer(MSDNET_7, 16, 3, 3)(features)
    for given, made, growth in zip(features, outputs, (6, 12, 24), strict=True):
        assert torch.equal(made[:, : given.shape[1]], given)
        assert made.shape[1] == given.shape[1] + growth


def test_a_dense_layer_that_drops_a_scale_still_reads_it() -> None:
    features = FirstLayer(MSDNET_7, 3)([torch.randn(2, 3, 8, 8)])
    layer = DenseLayer(MSDNET_7, 16, 3, 2).eval()
    with torch.no_grad():
        before = layer(features)
        after = layer([features[0] + 1, *features[1:]])
    assert len(before) == 2
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize(("config", "has_bias"), [(MSDNET_7, False), (MSDNET_11, True)])
def test_convolutions_start_with_he_scale_and_no_bias(config: MSDNetConfig, has_bias: bool) -> None:
    torch.manual_seed(0)
    net = msdnet(config, (32, 32, 3), 100)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    wide = max(convolutions, key=lambda conv: conv.weight.numel())
    fan_out = wide.out_channels * wide.kernel_size[0] * wide.kernel_size[1]
    assert wide.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
    assert all((conv.bias is not None) == has_bias for conv in convolutions)
    assert all(conv.bias.eq(0).all() for conv in convolutions if conv.bias is not None)
