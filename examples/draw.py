"""Draws the page's example images: nobody else has rights in them.

python -m examples.draw
"""

from collections.abc import Callable, Sequence
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

DIRECTORY = Path(__file__).parents[1] / "server/page/examples"
SIZE, FULL = 96, 384
"""Pixels of an image, and of what is drawn before it is scaled down."""
Floats = NDArray[np.float64]
Colour = tuple[int, int, int]
Point = tuple[float, float]
Y, X = np.mgrid[0:FULL, 0:FULL] / FULL
"""Where a pixel is, from 0 to 1; every length below is a share of the side."""
WHITE, PAPER, GREEN = (255, 255, 255), (240, 238, 234), (58, 104, 48)
LIGHT = np.array((-0.41, -0.51, 0.76))
"""From where balls are lit: left, above, before."""


class Picture:
    """Colours (side, side, 3) from 0 to 255, with a fixed noise."""

    def __init__(self, top: Colour, bottom: Colour, seed: int = 7) -> None:
        share = Y[..., None]
        self.pixels: Floats = np.array(top) * (1 - share) + np.array(bottom) * share
        self._random = np.random.default_rng(seed)

    def cover(self, shape: Floats, colours: Floats | Colour) -> None:
        """Paints where `shape` is 1, thinner where it is less."""
        share = np.clip(shape, 0, 1)[..., None]
        self.pixels = self.pixels * (1 - share) + np.asarray(colours) * share

    def grain(self, amount: float, blur: float, where: Floats | None = None) -> None:
        """Adds noise with spots of `blur` pixels."""
        drawn = Image.fromarray(self._random.integers(0, 256, (FULL, FULL), dtype=np.uint8))
        spots = np.asarray(drawn.filter(ImageFilter.GaussianBlur(blur)), np.float64)
        spots = amount * (spots - spots.mean()) / spots.std()
        self.pixels = self.pixels + (spots if where is None else spots * where)[..., None]

    def shadow(self, x: float, y: float, width: float, height: float) -> None:
        distance = ((X - x) / width) ** 2 + ((Y - y) / height) ** 2
        self.pixels = self.pixels * (1 - 0.45 * np.exp(-2 * distance))[..., None]

    def ball(self, x: float, y: float, size: Point, colour: Colour, shine: float = 0.3) -> None:
        right, down = (X - x) / size[0], (Y - y) / size[1]
        far = np.hypot(right, down)
        front = np.sqrt(np.clip(1 - far**2, 0, 1))
        lit = np.clip(right * LIGHT[0] + down * LIGHT[1] + front * LIGHT[2], 0, 1)[..., None]
        self.cover(40 * (1 - far), np.array(colour) * (0.4 + 0.6 * lit) + 255 * shine * lit**24)

    def disc(self, radius: float, colour: Colour) -> None:
        self.cover(80 * (radius - np.hypot(X - 0.5, Y - 0.5)), colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._with_pen(lambda pen: pen.polygon(scaled(points), fill=colour))

    def line(self, points: Sequence[Point], colour: Colour, width: int) -> None:
        self._with_pen(lambda pen: pen.line(scaled(points), fill=colour, width=width))

    def _with_pen(self, draw: Callable[[ImageDraw.ImageDraw], None]) -> None:
        image = self._image()
        draw(ImageDraw.Draw(image))
        self.pixels = np.asarray(image, np.float64)

    def _image(self) -> Image.Image:
        return Image.fromarray(self.pixels.clip(0, 255).astype(np.uint8))

    def finished(self) -> Image.Image:
        soft = self._image().filter(ImageFilter.GaussianBlur(1))
        return soft.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def scaled(points: Sequence[Point]) -> list[Point]:
    return [(FULL * x, FULL * y) for x, y in points]


def around(radius: float, turn: float) -> Point:
    """A point around the centre; `turn` in whole turns, clockwise from above."""
    return 0.5 + radius * sin(2 * pi * turn), 0.5 - radius * cos(2 * pi * turn)


def apple() -> Picture:
    picture = Picture(WHITE, PAPER)
    picture.shadow(0.5, 0.9, 0.36, 0.06)
    for x, colour in ((0.4, (215, 30, 35)), (0.6, (200, 22, 30)), (0.46, (218, 34, 38))):
        picture.ball(x, 0.56, (0.3, 0.33), colour)
    picture.line([(0.5, 0.3), (0.53, 0.12)], (90, 60, 30), 14)
    picture.polygon([(0.53, 0.17), (0.6, 0.11), (0.73, 0.15), (0.63, 0.22)], (70, 150, 50))
    return picture


def sunflower() -> Picture:
    picture = Picture(GREEN, (40, 80, 35))
    picture.grain(10, 8)
    for radius, colour in ((0.47, (235, 170, 10)), (0.42, (252, 200, 25))):
        for petal in range(22):
            turn = (petal + (radius < 0.45) / 2) / 22
            sides = [around(0.7 * radius, turn + side) for side in (-0.026, 0.026)]
            shade = 0.92 + 0.08 * (petal % 3 - 1)
            darker = (int(shade * colour[0]), int(shade * colour[1]), int(shade * colour[2]))
            picture.polygon([around(0.1, turn), sides[0], around(radius, turn), sides[1]], darker)
    picture.ball(0.5, 0.5, (0.2, 0.2), (110, 65, 20), shine=0.05)
    picture.grain(14, 2, np.hypot(X - 0.5, Y - 0.5) < 0.2)
    return picture


def skyscraper() -> Picture:
    picture = Picture((90, 150, 220), (200, 220, 240))
    picture.polygon([(0.36, 0.08), (0.5, 0.03), (0.5, 1), (0.32, 1)], (95, 115, 140))
    picture.polygon([(0.5, 0.03), (0.64, 0.08), (0.68, 1), (0.5, 1)], (70, 88, 112))
    for floor in range(26):
        y = 0.1 + 0.035 * floor
        picture.line([(0.34, y), (0.5, y - 0.012), (0.66, y)], (150, 175, 200), 5)
    for window in range(1, 4):
        x = 0.36 + 0.035 * window
        picture.line([(x, 0.09), (0.33 + 0.045 * window, 1)], (120, 145, 172), 3)
    picture.polygon([(0, 0.75), (0.2, 0.75), (0.2, 1), (0, 1)], (120, 125, 135))
    picture.polygon([(0.8, 0.68), (1, 0.68), (1, 1), (0.8, 1)], (110, 118, 128))
    return picture


def clock() -> Picture:
    picture = Picture((235, 232, 225), (215, 212, 205))
    picture.shadow(0.53, 0.56, 0.5, 0.5)
    picture.disc(0.42, (40, 40, 45))
    picture.disc(0.37, (250, 250, 248))
    for hour in range(12):
        ends = [around(radius, hour / 12) for radius in (0.3, 0.345)]
        picture.line(ends, (30, 30, 30), 5 if hour % 3 else 10)
    picture.line([(0.5, 0.5), (0.36, 0.42)], (20, 20, 20), 12)
    picture.line([(0.5, 0.5), (0.62, 0.25)], (20, 20, 20), 8)
    return picture


def poppy() -> Picture:
    picture = Picture((90, 140, 60), (60, 110, 45))
    picture.grain(14, 10)
    for x, y in ((0.36, 0.4), (0.64, 0.4), (0.38, 0.62), (0.62, 0.62)):
        picture.ball(x, y, (0.27, 0.25), (235, 42, 24), shine=0)
    picture.ball(0.5, 0.52, (0.11, 0.11), (35, 25, 25), shine=0.05)
    return picture


def road() -> Picture:
    picture = Picture((110, 170, 230), (215, 228, 240))
    picture.cover(Y > 0.45, (105, 138, 58))
    picture.grain(10, 4, Y > 0.45)
    picture.polygon([(0.47, 0.45), (0.53, 0.45), (0.98, 1), (0.02, 1)], (85, 88, 92))
    for far, near in ((0.5, 0.54), (0.6, 0.68), (0.76, 0.92)):
        sides = [(y, 0.06 * (y - 0.4)) for y in (far, near)]
        left, right = ([(0.5 + sign * width, y) for y, width in sides] for sign in (-1, 1))
        picture.polygon([*left, *reversed(right)], (240, 235, 200))
    picture.grain(4, 2)
    return picture


def sea() -> Picture:
    picture = Picture((120, 180, 235), (200, 225, 245))
    picture.grain(6, 26)
    deep = Y[..., None]
    picture.cover(Y > 0.42, (1 - deep) * np.array((40, 110, 165)) + deep * np.array((10, 60, 110)))
    picture.grain(16, 5, (Y > 0.42) * (0.4 + Y))
    waves = 14 * np.sin(2 * pi * (30 * Y**1.5 + 0.6 * np.sin(9 * X))) * Y * (Y > 0.42)
    picture.pixels = picture.pixels + waves[..., None]
    return picture


def cloud() -> Picture:
    picture = Picture((40, 110, 210), (120, 180, 240))
    shape = np.zeros_like(X)
    puffs = ((0.35, 0.5, 0.2), (0.52, 0.42, 0.24), (0.7, 0.52, 0.18), (0.5, 0.58, 0.26))
    for x, y, radius in (*puffs, (0.25, 0.58, 0.12)):
        shape = np.maximum(shape, 1.3 - np.hypot(X - x, 1.2 * (Y - y)) / radius)
    picture.cover(1.6 * shape, Picture(WHITE, (200, 210, 225)).pixels)
    return picture


DRAWN = (apple, sunflower, skyscraper, clock, poppy, road, sea, cloud)
"""Named for the label that a network should give."""


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for draw in DRAWN:
        draw().finished().save(DIRECTORY / f"{draw.__name__}.png", optimize=True)


if __name__ == "__main__":
    main()
