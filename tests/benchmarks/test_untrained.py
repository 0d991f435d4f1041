"""An untrained bundle loads, and every image goes to its last exit."""

from pathlib import Path

from benchmarks.bare import bare_loop
from benchmarks.rivals.exits import Exits
from benchmarks.untrained import random_images, write_bundle
from models.bundle.bundle import load_bundle
from models.nets.layers import Chain, ConvBNReLU, PoolHead
from models.nets.multi_exit import MultiExitNet


def test_every_image_goes_to_the_last_exit(tmp_path: Path) -> None:
    layers = [ConvBNReLU(channels, 8, 3, 2, bias=False) for channels in (3, 8)]
    net = MultiExitNet([Chain(layer) for layer in layers], [PoolHead(8, 5) for _ in layers])
    bundle = load_bundle(write_bundle(net, 16, 5, tmp_path / "made" / "1"))
    images = random_images(16, 4)
    assert images.shape == (4, 16, 16, 3)
    given = bundle.manifest.segments[0].inputs[0].name
    answers = Exits(bundle).answers({given: images})
    assert {answer["exit"] for answer in answers} == {bundle.manifest.num_exits}
    assert bare_loop(bundle.path, images, 0.1) > 0
