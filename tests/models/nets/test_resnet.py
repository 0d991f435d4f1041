import torch
from torch import nn

from models.nets.layers import ConvHead, PoolHead
from models.nets.resnet import RESNET_18, RESNET_18_IMAGENET, Block, ResNetConfig, resnet

NARROW = ResNetConfig(blocks=(1, 2, 1), widths=(4, 6, 8), head_channels=5)


def feature_shapes(config: ResNetConfig, size: int) -> list[tuple[int, ...]]:
    features, shapes = [torch.zeros(1, 3, size, size)], []
    with torch.no_grad():
        for segment, _ in resnet(config, (size, size, 3), 10).eval().split():
            features = segment(features)
            (x,) = features
            shapes.append(tuple(x.shape[1:]))
    return shapes


def test_every_stage_but_the_first_halves_the_size() -> None:
    assert feature_shapes(RESNET_18, 32) == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_large_images_are_quartered_first() -> None:
    shapes = feature_shapes(RESNET_18_IMAGENET, 64)
    assert shapes == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]


def test_a_stage_has_its_blocks_and_the_last_exit_is_the_networks_own() -> None:
    net = resnet(NARROW, (16, 16, 3), 10)
    counts = [sum(isinstance(m, Block) for m in segment.modules()) for segment in net.segments]
    assert counts == [1, 2, 1]
    assert [type(head) for head in net.heads] == [ConvHead, ConvHead, PoolHead]


def test_a_block_adds_to_what_it_is_given() -> None:
    block, x = Block(4, 4, stride=1).eval(), torch.randn(2, 4, 8, 8).relu()
    norm = block.residual[-1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)
    with torch.no_grad():
        assert torch.equal(block(x), x)


def test_a_block_that_changes_the_shape_projects_its_shortcut() -> None:
    with torch.no_grad():
        assert Block(4, 6, stride=2).eval()(torch.zeros(2, 4, 9, 9)).shape == (2, 6, 5, 5)
    assert len(Block(4, 4, stride=1).shortcut) == 0
    assert len(Block(4, 6, stride=1).shortcut) == len(Block(4, 4, stride=2).shortcut) == 2
