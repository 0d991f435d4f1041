"""Networks by the name a configuration gives them."""

from dataclasses import replace

from models.nets.msdnet import MSDNET_7, MSDNET_11, MSDNetConfig, msdnet
from models.nets.multi_exit import MultiExitNet

MSDNETS = {
    "msdnet-7": MSDNET_7,
    "msdnet-11": MSDNET_11,
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


def build(name: str, in_channels: int, num_classes: int) -> MultiExitNet:
    """A freshly initialised network; raises KeyError for a name that is no preset."""
    return msdnet(replace(MSDNETS[name], in_channels=in_channels, num_classes=num_classes))
