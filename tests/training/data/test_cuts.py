"""Random resized crops."""

import numpy as np
import pytest
from PIL import Image

from models.bundle.image_input import ImageInput
from tests.images import encoded, reopened
from training.data.cuts import Cut, part_size

TARGET = ImageInput(height=16, width=16, channels=3, resize="crop")


def ramp(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    pixels[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("whole", [(100, 80), (80, 100), (300, 20)])
def test_parts_have_the_areas_and_ratios_of_the_recipe(whole: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    sizes = [part_size(whole, 0.08, generator) for _ in range(500)]
    assert all(0 < width <= whole[0] and 0 < height <= whole[1] for width, height in sizes)
    if min(whole) > 20:
        shares = [width * height / (whole[0] * whole[1]) for width, height in sizes]
        ratios = [width / height for width, height in sizes]
        assert 0.08 <= min(shares) < 0.12
        assert 0.85 < max(shares) <= 1
        assert 0.749 < min(ratios) < 0.8
        assert 1.25 < max(ratios) < 1.334


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_shows_one_part_in_its_own_shape(kind: str) -> None:
    """Of large JPEGs too, which are decoded at a fraction of their size."""
    content = encoded(ramp(800, 600), kind)
    for seed in range(20):
        cut = Cut(flip=False)(reopened(content), TARGET, np.random.default_rng(seed)).astype(int)
        assert cut.shape == (16, 16, 3)
        across, down = cut[8, 15, 0] - cut[8, 0, 0], cut[15, 8, 1] - cut[0, 8, 1]
        generator = np.random.default_rng(seed)
        width, height = part_size((800, 600), 0.08, generator)
        assert across == pytest.approx(255 * width / 800 * 15 / 16, abs=6)
        assert down == pytest.approx(255 * height / 600 * 15 / 16, abs=6)


def test_half_of_all_cuts_are_mirrored() -> None:
    cuts = [Cut()(ramp(64, 64), TARGET, np.random.default_rng(seed)) for seed in range(100)]
    mirrored = sum(int(cut[8, 0, 0]) > int(cut[8, 15, 0]) for cut in cuts)
    assert 35 <= mirrored <= 65


def test_equal_seeds_cut_alike_and_others_do_not() -> None:
    one, same, other = (Cut()(ramp(64, 64), TARGET, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_turned_photo_is_cut_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    opened = reopened(encoded(ramp(400, 100), "JPEG", exif=exif))
    cut = Cut(least_area=0.99, flip=False)(opened, TARGET, np.random.default_rng(0)).astype(int)
    assert cut[15, 8, 0] - cut[0, 8, 0] > 40, "red grows downwards now"
    assert abs(cut[8, 15, 0] - cut[8, 0, 0]) < 20
