"""EfficientNet-Lite0 with exits and as a teacher, beside the published network."""

import re
import shlex
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from examples import efficientnet
from examples.efficientnet import ENLARGED, published, teacher, with_exits
from training.cli import values_of
from training.config import RECIPES, TrainConfig
from training.data.splits import Splits, split_rows

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


def splits_of(command: str) -> Splits:
    """The rows of CIFAR-100 that a command of `offramp train` takes."""
    words = shlex.split(command)
    given = dict(pairwise(words))
    settings = [value for name, value in pairwise(words) if name == "--set"]
    values = {"data": given["--data"], "net": given["--net"], **values_of(settings)}
    config = TrainConfig.model_validate(RECIPES[given.get("--recipe", "paper")] | values)
    return split_rows(torch.arange(100).repeat_interleave(500), config)


def test_the_student_keeps_no_row_apart_that_its_teacher_has_learned_from() -> None:
    commands = (efficientnet.__doc__ or "").replace("\\\n", "")
    by_teacher, by_student = map(splits_of, re.findall(r"offramp train .*", commands))
    apart = np.append(by_student.selection, by_student.calibration)
    assert len(apart)
    assert not np.isin(apart, by_teacher.train).any()
