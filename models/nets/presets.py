"""Networks by the name a configuration gives them."""

import re
from collections.abc import Callable, Sequence
from functools import partial

from models.nets.mlp import MLP, mlp
from models.nets.msdnet import MSDNET_7, MSDNET_11, MSDNET_IMAGENET, MSDNetConfig, msdnet
from models.nets.multi_exit import MultiExitNet, NetError
from models.nets.own import FUNCTION_NAME, introduced, load_function
from models.nets.pretrained import PREFIX, pretrained
from models.nets.pretrained_text import pretrained_text
from models.nets.resnet import RESNET_18, RESNET_18_IMAGENET, resnet
from models.nets.text import TEXT_SMALL, TEXT_TINY, text_encoder
from models.nets.vit import VIT_TINY, vit

MSDNETS = {
    "msdnet-7": MSDNET_7,
    "msdnet-11": MSDNET_11,
    "msdnet-imagenet": MSDNET_IMAGENET,
    "msdnet-5": MSDNetConfig(  # narrow: short experiments on two CPU cores
        layers=(2, 2, 2, 2, 2),
        base=12,
        growth=4,
        scale_factors=(1, 2, 4),
        bottleneck=(1, 2, 4),
        prune="evenly",
        conv_bias=False,
        head_channels=64,
    ),
    "msdnet-tiny": MSDNetConfig(
        layers=(2, 1, 1),
        base=8,
        growth=4,
        scale_factors=(1, 2, 4),
        bottleneck=(1, 2, 4),
        prune="evenly",
        conv_bias=False,
        head_channels=32,
    ),
}

Builder = Callable[[Sequence[int], int], MultiExitNet]

IMAGE_PRESETS: dict[str, Builder] = {
    **{name: partial(msdnet, config) for name, config in MSDNETS.items()},
    "resnet-18": partial(resnet, RESNET_18),
    "resnet-18-imagenet": partial(resnet, RESNET_18_IMAGENET),
    "vit-tiny": partial(vit, VIT_TINY),
}
TEXT_PRESETS: dict[str, Builder] = {
    "text-tiny": partial(text_encoder, TEXT_TINY),
    "text-small": partial(text_encoder, TEXT_SMALL),
}
TENSOR_PRESETS: dict[str, Builder] = {"mlp": partial(mlp, MLP)}
PRESETS = IMAGE_PRESETS | TEXT_PRESETS | TENSOR_PRESETS

KINDS = {3: ("images", IMAGE_PRESETS), 2: ("texts", TEXT_PRESETS), 1: ("numbers", TENSOR_PRESETS)}
"""What data of a shape of so many numbers are, and the presets for them."""


def build(name: str, shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """A freshly initialised network.

    `shape` is height, width and channels of images; the vocabulary's size and the longest length of
    texts; how many numbers a row has. Raises NetError where `name` gives no network for these.
    """
    builder = find(name)
    kind, presets = KINDS[len(shape)]
    is_pretrained = name.startswith(PREFIX)
    if is_pretrained and presets is TEXT_PRESETS:
        builder = partial(pretrained_text, name.removeprefix(PREFIX))
    is_other_preset = name in PRESETS and name not in presets
    if is_other_preset or (is_pretrained and presets is TENSOR_PRESETS):
        raise NetError(f"{name} is no network for {kind}; there are {', '.join(presets)}")
    with introduced(name):
        net = builder(shape, num_classes)
    if not isinstance(net, MultiExitNet):
        raise NetError(f"{name} returned a {type(net).__name__}, not a MultiExitNet")
    return net


def find(name: str) -> Builder:
    """What builds the network of that name; raises NetError where there is nothing.

    A name is a preset's; or "FILE.py:FUNCTION" or "MODULE:FUNCTION", the user's own function, which
    takes shape and number of classes as well; or "transformers:" and a model's directory or
    hub name.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name.startswith(PREFIX):
        return partial(pretrained, name.removeprefix(PREFIX))
    if not re.fullmatch(FUNCTION_NAME, name):
        raise NetError(
            f"no network {name!r}; there are {', '.join(PRESETS)}, your own as FILE.py:FUNCTION, "
            f"or a pretrained one as {PREFIX}DIRECTORY"
        )
    with introduced(name):
        return load_function(name)
