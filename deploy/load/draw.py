"""The load profile's images: the examples, so altered that confidences and exits differ.

python -m deploy.load.draw
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

EXAMPLES = Path(__file__).parents[2] / "examples"
DIRECTORY = Path(__file__).parent / "images"
SIZE = (32, 32)
CORNERS = ((0, 0), (8, 0), (0, 8), (8, 8))
SIDE = 24


def variants() -> Iterator[Image.Image]:
    """The same ones every time."""
    otter = Image.open(EXAMPLES / "otter.png")
    seven = Image.open(EXAMPLES / "seven.png").convert("RGB").resize(SIZE)
    noise = np.random.default_rng(0).normal(0, 1, (*SIZE, 3))
    for image in (otter, ImageOps.mirror(otter)):
        for degrees in (0, 15, 90, 180):
            yield image.rotate(degrees, Image.Resampling.BILINEAR)
    for x, y in CORNERS:
        yield otter.crop((x, y, x + SIDE, y + SIDE)).resize(SIZE)
    for radius in (0.5, 1, 2):
        yield otter.filter(ImageFilter.GaussianBlur(radius))
    for image in (otter, seven):
        for strength in (10, 25, 50, 100):
            noisy = np.asarray(image) + strength * noise
            yield Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    for share in (0.25, 0.5, 0.75, 1):
        yield Image.blend(otter, seven, share)
    for factor in (0.3, 0.6, 1.5):
        yield ImageEnhance.Brightness(otter).enhance(factor)
    yield ImageOps.invert(otter)
    yield ImageOps.grayscale(otter)


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for number, image in enumerate(variants()):
        image.save(DIRECTORY / f"{number:02}.png")


if __name__ == "__main__":
    main()
