"""The presets against the published cost of each exit, and what holds for all of them."""

from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.nets.msdnet import MSDNET_IMAGENET, msdnet
from models.nets.multi_exit import MultiExitNet, NetError
from models.nets.presets import IMAGE_PRESETS, PRESETS, TENSOR_PRESETS, TEXT_PRESETS, build
from tests.models.nets.pieces import macs_per_piece, num_parameters

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)
TRAINABLE_HERE = [name for name in IMAGE_PRESETS if "imagenet" not in name]

PUBLISHED_ALONE = {
    "msdnet-11": (15.3, 28.0, 44.8, 56.3, 70.2, 86.4, 110.3, 124.2, 140.4, 159.0, 170.0),
}
PUBLISHED_ALL_HEADS = {
    "msdnet-7": (15.0, 25.3, 36.8, 46.0, 56.9, 66.5, 75.5),
    "msdnet-11": (15.3, 30.8, 51.3, 65.2, 82.3, 102.7, 131.6, 148.7, 169.1, 192.7, 209.7),
}
"""M MACs on 32x32 CIFAR images with 100 classes."""

PUBLISHED_PARAMETERS = (0.37, 0.78, 1.14, 1.52, 1.96, 2.47, 2.93, 3.37, 3.88, 4.45, 5.07)
"""Millions, of the 11-exit net up to each exit, all heads so far."""

MACS = {
    "msdnet-5": (
        [3420160, 2220032, 2977792, 2113536, 2056192],
        [891136, 1186048, 891136, 1186048, 891136],
    ),
    "resnet-18": (
        [152764416, 134217728, 134217728, 134217728],
        [28324352, 11809280, 5321216, 51200],
    ),
    "vit-tiny": ([60358656, 59768832, 59768832, 59768832], [19200] * 4),
    "msdnet-imagenet": (
        [861822976, 796293120, 837362176, 697251968, 118716416],
        [106936320, 116000000, 94032000, 61974080, 192736320],
    ),
    "resnet-18-imagenet": (
        [580435968, 411041792, 411041792, 411041792],
        [86832128, 36254720, 16937984, 512000],
    ),
}
"""Of segments and of heads, as counted when the preset was added; there are bundles of them."""


def shape_and_classes(name: str) -> tuple[tuple[int, int, int], int]:
    return (IMAGENET, 1000) if "imagenet" in name else (CIFAR, 100)


@pytest.mark.parametrize("name", PUBLISHED_ALL_HEADS)
def test_macs_of_all_heads_so_far_are_the_published_ones(name: str) -> None:
    segments, heads = macs_per_piece(build(name, CIFAR, 100), CIFAR)
    pieces = [s + h for s, h in zip(segments, heads, strict=True)]
    millions = [macs / 1e6 for macs in accumulate(pieces)]
    assert millions == pytest.approx(PUBLISHED_ALL_HEADS[name], rel=0.01)


@pytest.mark.parametrize("name", PUBLISHED_ALONE)
def test_macs_of_each_exit_alone_are_the_published_ones(name: str) -> None:
    segments, heads = macs_per_piece(build(name, CIFAR, 100), CIFAR)
    alone = [(s + h) / 1e6 for s, h in zip(accumulate(segments), heads, strict=True)]
    assert alone == pytest.approx(PUBLISHED_ALONE[name], rel=0.01)


def test_parameters_up_to_each_exit_are_the_published_ones() -> None:
    pieces = [
        num_parameters(s) + num_parameters(h) for s, h in build("msdnet-11", CIFAR, 100).split()
    ]
    millions = [n / 1e6 for n in accumulate(pieces)]
    assert millions == pytest.approx(PUBLISHED_PARAMETERS, abs=0.0051)


def test_the_original_imagenet_msdnet_costs_what_was_published() -> None:
    """Its step 7 model: kalviny/MSDNet-PyTorch#10, which counts ReLU and pooling as well."""
    net = msdnet(replace(MSDNET_IMAGENET, layers=(7,) * 5, conv_bias=False), IMAGENET, 1000)
    parameters = accumulate(num_parameters(s) + num_parameters(h) for s, h in net.split())
    macs = accumulate(s + h for s, h in zip(*macs_per_piece(net, IMAGENET), strict=True))
    published = (8.76, 20.15, 31.73, 41.86, 62.31)
    assert [n / 1e6 for n in parameters] == pytest.approx(published, abs=0.0051)
    published = (615.69, 1436.39, 2283.21, 2967.42, 3253.79)
    assert [n / 1e6 for n in macs] == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("name", "classes", "macs", "parameters"),
    [("resnet-18-imagenet", 1000, 1814073344, 11689512), ("resnet-18", 10, 555422720, 11173962)],
)
def test_a_resnet_without_its_early_heads_is_the_published_one(
    name: str, classes: int, macs: int, parameters: int
) -> None:
    """torchvision's weights say 1.814 G and 11689512; kuangliu/pytorch-cifar's net has 11173962."""
    image_shape, _ = shape_and_classes(name)
    net = build(name, image_shape, classes)
    assert num_parameters(net.segments) + num_parameters(net.heads[-1]) == parameters
    segments, heads = macs_per_piece(net, image_shape)
    assert sum(segments) + heads[-1] == macs


@pytest.mark.parametrize("name", MACS)
def test_macs_of_a_preset_never_change(name: str) -> None:
    image_shape, num_classes = shape_and_classes(name)
    net = build(name, image_shape, num_classes)
    assert macs_per_piece(net, image_shape) == MACS[name]


def test_macs_of_a_head_are_those_of_its_layers() -> None:
    """64 channels at 8x8, two 3x3 convolutions of width 32 and stride 2, and a linear layer."""
    _, heads = macs_per_piece(build("msdnet-tiny", CIFAR, 10), CIFAR)
    assert heads[0] == 4 * 4 * 64 * 32 * 9 + 2 * 2 * 32 * 32 * 9 + 32 * 10


def test_macs_of_a_transformer_are_those_of_its_matrices() -> None:
    """64 tokens of width 192: 12 * 192 * 192 weights and two 64 x 64 x 192 products a block."""
    segments, heads = macs_per_piece(build("vit-tiny", CIFAR, 100), CIFAR)
    block = 64 * 12 * 192 * 192 + 2 * 64 * 64 * 192
    assert segments == [2 * block + 64 * (4 * 4 * 3) * 192, 2 * block, 2 * block, 2 * block]
    assert heads == [192 * 100] * 4


@pytest.mark.parametrize("name", IMAGE_PRESETS)
@pytest.mark.parametrize(("image_shape", "classes"), [((8, 8, 1), 10), ((48, 32, 3), 100)])
def test_every_exit_gives_one_logit_per_class(
    name: str, image_shape: tuple[int, int, int], classes: int
) -> None:
    height, width, channels = image_shape
    net = build(name, image_shape, classes).eval()
    with torch.no_grad():
        logits = net(torch.zeros(2, channels, height, width))
    assert [tuple(z.shape) for z in logits] == [(2, classes)] * net.num_exits


@pytest.mark.parametrize("name", TRAINABLE_HERE)
def test_equal_seeds_give_equal_weights_and_others_do_not(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(name, CIFAR, 100).parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def trainable(name: str) -> MultiExitNet:
    torch.manual_seed(0)
    return build(name, (16, 16, 3), 10)


@pytest.mark.parametrize("name", TRAINABLE_HERE)
def test_a_gradient_reaches_every_weight_that_an_exit_reads(name: str) -> None:
    net = trainable(name)
    loss = sum(F.cross_entropy(z, torch.tensor([3, 7])) for z in net(torch.randn(2, 3, 16, 16)))
    assert isinstance(loss, torch.Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    for key, weight in net.named_parameters():
        if name == "msdnet-tiny" and key.startswith("segments.2.0.same.0."):
            continue  # its last layer still makes a fine scale, which no exit reads
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert weight.ndim == 1 or weight.grad.any()


@pytest.mark.parametrize("name", TRAINABLE_HERE)
def test_an_exit_depends_on_no_later_segment_and_on_no_other_image(name: str) -> None:
    net, images = trainable(name).eval(), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        before, alone = net(images), net(images[:1])
        for weight in net.segments[-1].parameters():
            weight.add_(0.1)
        after = net(images)
    assert all(torch.equal(a, b) for a, b in zip(before[:-1], after[:-1], strict=True))
    assert not torch.allclose(before[-1], after[-1])
    for several, one in zip(before, alone, strict=True):
        assert several[:1] == pytest.approx(one, rel=1e-4, abs=1e-4)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(NetError, match=r"^no network 'msdnet-8'; there are msdnet-7, msdnet-11, "):
        build("msdnet-8", CIFAR, 100)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_for_other_data_is_refused_with_those_that_fit(name: str) -> None:
    shapes = {CIFAR: IMAGE_PRESETS, (500, 16): TEXT_PRESETS, (4,): TENSOR_PRESETS}
    for shape, presets in shapes.items():
        if name not in presets:
            with pytest.raises(
                NetError, match=f"^{name} is no network for .*{next(iter(presets))}"
            ):
                build(name, shape, 10)
