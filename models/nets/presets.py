"""Networks by the name a configuration gives them."""

import re
from collections.abc import Callable, Sequence
from functools import partial

from models.nets.msdnet import MSDNET_7, MSDNET_11, MSDNET_IMAGENET, MSDNetConfig, msdnet
from models.nets.multi_exit import MultiExitNet, NetError
from models.nets.own import FUNCTION_NAME, introduced, load_function
from models.nets.pretrained import PREFIX, pretrained
from models.nets.resnet import RESNET_18, RESNET_18_IMAGENET, resnet
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

PRESETS: dict[str, Builder] = {
    **{name: partial(msdnet, config) for name, config in MSDNETS.items()},
    "resnet-18": partial(resnet, RESNET_18),
    "resnet-18-imagenet": partial(resnet, RESNET_18_IMAGENET),
    "vit-tiny": partial(vit, VIT_TINY),
}


def build(name: str, image_shape: Sequence[int], num_classes: int) -> MultiExitNet:
    """A freshly initialised network for images of (height, width, channels).

    Raises NetError where `name` gives none.
    """
    builder = find(name)
    with introduced(name):
        net = builder(image_shape, num_classes)
    if not isinstance(net, MultiExitNet):
        raise NetError(f"{name} returned a {type(net).__name__}, not a MultiExitNet")
    return net


def find(name: str) -> Builder:
    """What builds the network of that name; raises NetError where there is nothing.

    A name is a preset's; or "FILE.py:FUNCTION" or "MODULE:FUNCTION", the user's own function, which
    takes image shape and number of classes as well; or "transformers:" and a model's directory or
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
    return load_function(name)
