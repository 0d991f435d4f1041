"""EfficientNet-Lite0 with exits and as a teacher, beside the published network."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from examples.efficientnet import ENLARGED, published, teacher, with_exits

PHOTOS = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def features_of(images: Tensor) -> Tensor:
    """Of the published network, before its classifier: (batch, 1280)."""
    found: Tensor = published(images.shape[-1]).eval().extract_features(images)
    return found.mean((2, 3))


def flops(net: torch.nn.Module, *given: object) -> int:
    with FlopCounterMode(display=False) as counter:
        net(*given)
    return int(counter.get_total_flops())


@torch.no_grad()
def test_the_last_exit_sees_what_the_published_network_sees() -> None:
    net = with_exits((112, 112, 3), 101).eval()
    logits = net(PHOTOS)
    assert [z.shape for z in logits] == [(2, 101)] * 4
    assert net.normalisation == ([127 / 255] * 3, [128 / 255] * 3)
    *_, linear = net.heads[-1].children()
    torch.testing.assert_close(logits[-1], linear(features_of(PHOTOS)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_exits_are_where_the_docs_say() -> None:
    net = with_exits((112, 112, 3), 101).eval()
    features, trunk, to_exits = [PHOTOS], 0, []
    for segment, head in net.split():
        trunk += flops(segment, features)
        features = segment(features)
        to_exits.append(trunk + flops(head, features))
    shares = 100 * np.array(to_exits) / to_exits[-1]
    assert shares.round().tolist() == [31, 39, 60, 100]


@torch.no_grad()
def test_the_teacher_enlarges_images_of_any_size() -> None:
    for size in (32, 47):
        images = F.interpolate(PHOTOS, size)
        enlarged = F.interpolate(images, ENLARGED, mode="bilinear", align_corners=False)
        net = teacher((size, size, 3), 100).eval()
        (logits,) = net(images)
        *_, linear = net.heads[0].children()
        torch.testing.assert_close(logits, linear(features_of(enlarged)), rtol=1e-4, atol=1e-4)
