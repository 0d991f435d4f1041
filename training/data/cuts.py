"""Random resized crops, cut while decoding."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.bundle.image import pixels, upright
from models.bundle.image_input import ImageInput


@dataclass(frozen=True)
class Cut:
    """A random part of the image, resized to the target, and mirrored half of the time.

    As networks for ImageNet are trained since Szegedy et al. (2015): the part has between
    `least_area` and all of the area, and an aspect ratio between 3/4 and 4/3.
    """

    least_area: float = 0.08
    flip: bool = True

    def __call__(
        self, image: Image.Image, target: ImageInput, generator: np.random.Generator
    ) -> NDArray[np.uint8]:
        width, height = part_size(image.size, self.least_area, generator)
        side = max(target.width, target.height) * min(image.size) / min(width, height)
        before = image.size
        image = upright(image, target, math.ceil(side))
        if (image.width < image.height) != (before[0] < before[1]):
            width, height = height, width
        scale = math.sqrt(image.width * image.height / (before[0] * before[1]))
        width, height = min(width * scale, image.width), min(height * scale, image.height)
        left = generator.random() * (image.width - width)
        top = generator.random() * (image.height - height)
        box = left, top, left + width, top + height
        size = target.width, target.height
        part = image.resize(size, Image.Resampling.BILINEAR, box=box)
        if self.flip and generator.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return pixels(part)


def part_size(
    whole: tuple[int, int], least_area: float, generator: np.random.Generator
) -> tuple[float, float]:
    """Width and height of a random part; the first of ten draws that fits, else a square."""
    for _ in range(10):
        area = whole[0] * whole[1] * generator.uniform(least_area, 1)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= whole[0] and height <= whole[1]:
            return width, height
    side = min(whole)
    return float(side), float(side)
