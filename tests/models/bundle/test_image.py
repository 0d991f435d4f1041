import numpy as np
import pytest
from PIL import Image

from models.bundle.image import fit_image

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def test_an_image_that_fits_keeps_every_pixel() -> None:
    fitted = fit_image(Image.fromarray(PIXELS), 2, 3, 3)
    assert fitted.dtype == np.uint8
    assert (fitted == PIXELS).all()


def test_grey_becomes_three_equal_channels_and_colour_one() -> None:
    grey = Image.fromarray(np.array([[0, 255]], dtype=np.uint8))
    assert fit_image(grey, 1, 2, 3).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    red = Image.new("RGB", (1, 1), (255, 0, 0))
    assert fit_image(red, 1, 1, 1).tolist() == [[[76]]]  # 0.299 of the red, ITU-R 601


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "CMYK", "1"])
def test_other_modes_are_converted(mode: str) -> None:
    assert fit_image(Image.new(mode, (4, 4)), 4, 4, 3).shape == (4, 4, 3)


def test_height_and_width_are_not_swapped() -> None:
    assert fit_image(Image.new("RGB", (10, 20)), 4, 6, 3).shape == (4, 6, 3)


def test_resizing_is_bilinear_and_antialiased() -> None:
    """Halving weighs three pixels by 3/7, 3/7 and 1/7: a triangle two pixels wide."""
    columns = Image.fromarray(np.array([[0, 100, 200, 100]], dtype=np.uint8))
    fitted = fit_image(columns, 1, 2, 1).ravel().tolist()
    assert fitted == [round(500 / 7), round(1000 / 7)]
