"""Every family of networks goes through the exporter: its graphs agree with torch, aligned too."""

import pytest
import torch

from models.bundle.runner import SegmentRunner
from models.nets.msdnet import MSDNetConfig, msdnet
from models.nets.multi_exit import MultiExitNet
from models.nets.resnet import ResNetConfig, resnet
from models.nets.vit import ViTConfig, vit
from tests.models.nets.pieces import macs_per_piece
from tests.training.aligning import assert_aligned_alike
from training.augment import normalised
from training.evaluation.evaluate import all_logits
from training.exporting.graphs import PARITY_TOLERANCE, export_graphs
from training.fronts import ImageFront

SHAPE = (16, 16, 3)
MSDNET = MSDNetConfig(
    layers=(1, 1),
    base=4,
    growth=2,
    scale_factors=(1, 2),
    bottleneck=(1, 2),
    prune="evenly",
    conv_bias=True,
    head_channels=None,
    large_images=True,
)
RESNET = ResNetConfig(blocks=(1, 1), widths=(4, 6), head_channels=8)
VIT = ViTConfig(blocks=(1, 1), patch=4, width=12, heads=3)


@pytest.mark.parametrize(
    "net",
    [msdnet(MSDNET, SHAPE, 10), resnet(RESNET, SHAPE, 10), vit(VIT, SHAPE, 10)],
    ids=["msdnet for large images", "resnet", "vit"],
)
def test_exported_graphs_agree_with_torch_at_any_batch_size(net: MultiExitNet) -> None:
    torch.manual_seed(0)
    randomise(net)
    images = torch.randint(256, (3, *SHAPE), dtype=torch.uint8)
    mean, std = torch.tensor([0.5, 0.4, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    segments, heads, content = export_graphs(net, [images], ImageFront(mean, std))
    runner = SegmentRunner(segments, heads, content)
    for rows in (1, 3):
        with torch.no_grad():
            expected = net(normalised(images[:rows], mean, std))
        actual = all_logits(runner, images[:rows].numpy(), lambda _: None)
        for theirs, ours in zip(expected, actual, strict=True):
            assert theirs.abs().max() > 0.01  # a comparison of zeros would prove nothing
            assert ours == pytest.approx(theirs.numpy(), abs=PARITY_TOLERANCE / 10)
    macs = [graph.macs for graph in segments], [graph.macs for graph in heads]
    assert macs == macs_per_piece(net, SHAPE)
    made, made_heads = ([content[graph.file] for graph in graphs] for graphs in (segments, heads))
    assert_aligned_alike(made, made_heads, images.numpy())


def randomise(net: MultiExitNet) -> None:
    """Statistics and biases that are not the ones a network is born with."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape) / 2 + 0.5)
            if "mean" in name or "bias" in name:
                tensor.sub_(0.75)
