import struct
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from models.bundle.image import fit_image
from models.bundle.image_input import ImageInput, Resize
from tests.images import encoded, reopened

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
RULES: Sequence[Resize] = ("squash", "crop", "pad")


def fit(
    image: Image.Image, height: int, width: int, channels: int = 3, resize: Resize = "squash"
) -> NDArray[np.uint8]:
    target = {"height": height, "width": width, "channels": channels, "resize": resize}
    return fit_image(image, ImageInput.model_validate(target))


@pytest.mark.parametrize("rule", RULES)
def test_an_image_that_fits_keeps_every_pixel(rule: Resize) -> None:
    fitted = fit(Image.fromarray(PIXELS), 2, 3, 3, rule)
    assert fitted.dtype == np.uint8
    assert (fitted == PIXELS).all()


def test_grey_becomes_three_equal_channels_and_colour_one() -> None:
    grey = Image.fromarray(np.array([[0, 255]], dtype=np.uint8))
    assert fit(grey, 1, 2, 3).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    red = Image.new("RGB", (1, 1), (255, 0, 0))
    assert fit(red, 1, 1, 1).tolist() == [[[76]]]  # 0.299 of the red, ITU-R 601


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "CMYK", "1", "I;16", "PA", "RGBa"])
def test_other_modes_are_converted(mode: str) -> None:
    assert fit(Image.new(mode, (4, 4)), 4, 4, 3).shape == (4, 4, 3)


@pytest.mark.parametrize("rule", RULES)
def test_height_and_width_are_not_swapped(rule: Resize) -> None:
    assert fit(Image.new("RGB", (10, 20)), 4, 6, 3, rule).shape == (4, 6, 3)


def test_resizing_is_bilinear_and_antialiased() -> None:
    """Halving weighs three pixels by 3/7, 3/7 and 1/7: a triangle two pixels wide."""
    columns = Image.fromarray(np.array([[0, 100, 200, 100]], dtype=np.uint8))
    fitted = fit(columns, 1, 2, 1).ravel().tolist()
    assert fitted == [round(500 / 7), round(1000 / 7)]


def thirds() -> Image.Image:
    """Red, green and blue side by side, 24 x 8 pixels."""
    image = Image.new("RGB", (24, 8), "red")
    draw = ImageDraw.Draw(image)
    draw.rectangle((8, 0, 15, 7), "lime")
    draw.rectangle((16, 0, 23, 7), "blue")
    return image


def colours(fitted: NDArray[np.uint8]) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in fitted.reshape(-1, 3).tolist()}


def test_crop_keeps_the_aspect_ratio_and_the_centre() -> None:
    """At its border the filter reaches beyond what is kept."""
    assert colours(fit(thirds(), 4, 4, resize="crop")[:, 1:-1]) == {(0, 255, 0)}
    upright = thirds().transpose(Image.Transpose.ROTATE_90)
    assert colours(fit(upright, 4, 4, resize="crop")[1:-1]) == {(0, 255, 0)}


def test_crop_is_scaling_then_cutting() -> None:
    scaled = photo((60, 40)).resize((30, 20), Image.Resampling.BILINEAR)
    expected = np.asarray(scaled.crop((5, 0, 25, 20)))
    np.testing.assert_allclose(fit(photo((60, 40)), 20, 20, resize="crop"), expected, atol=1)


def test_squash_shows_everything_in_another_shape() -> None:
    columns = fit(thirds(), 6, 6)[0].tolist()
    assert (columns[0], columns[5]) == ([255, 0, 0], [0, 0, 255])


def test_pad_shows_everything_amid_the_ground() -> None:
    target = ImageInput(height=24, width=24, channels=3, resize="pad", ground=(9, 8, 7))
    fitted = fit_image(thirds(), target)
    np.testing.assert_array_equal(fitted[8:16], np.asarray(thirds()))
    assert colours(fitted[:8]) == colours(fitted[16:]) == {(9, 8, 7)}
    grey = ImageInput(height=24, width=24, channels=1, resize="pad", ground=(255, 0, 0))
    assert fit_image(thirds(), grey)[0, 0].tolist() == [76]


@pytest.mark.parametrize("rule", RULES)
def test_a_panorama_of_one_row_is_fitted(rule: Resize) -> None:
    assert fit(Image.new("RGB", (1000, 1), "red"), 8, 8, 3, rule).shape == (8, 8, 3)


def test_a_longer_short_side_cuts_more_of_the_border_off() -> None:
    """Eight of sixteen scaled pixels are an image's middle half."""
    image = Image.new("RGB", (32, 32), "red")
    ImageDraw.Draw(image).rectangle((8, 8, 23, 23), "lime")
    target = ImageInput(height=8, width=8, channels=3, resize="crop", short_side=16)
    assert colours(fit_image(image, target)[1:-1, 1:-1]) == {(0, 255, 0)}
    at_size = Image.new("RGB", (8, 8), "red")
    ImageDraw.Draw(at_size).rectangle((2, 2, 5, 5), "lime")
    assert (fit_image(at_size, target)[1:-1, 1:-1] == (0, 255, 0)).all()


TRANSPARENT: dict[str, Image.Image] = {
    "RGBA": Image.new("RGBA", (4, 4), (0, 0, 0, 0)),
    "LA": Image.new("LA", (4, 4), (0, 0)),
}


@pytest.mark.parametrize("mode", TRANSPARENT)
def test_transparency_shows_the_ground(mode: str) -> None:
    """A black shape on a transparent ground is a black shape on white."""
    image = TRANSPARENT[mode].copy()
    image.paste((0, 0, 0, 255) if mode == "RGBA" else (0, 255), (1, 1, 3, 3))
    for kind in ("PNG", "WEBP") if mode == "RGBA" else ("PNG",):
        opened = reopened(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
        fitted = fit(opened, 4, 4, 1)[..., 0]
        assert fitted[0].tolist() == [255] * 4
        assert fitted[1].tolist() == [255, 0, 0, 255]


def test_one_transparent_colour_shows_the_ground() -> None:
    grey = np.array([[0, 7]], dtype=np.uint8)
    opened = reopened(encoded(Image.fromarray(grey), transparency=7))
    assert fit(opened, 1, 2, 1).ravel().tolist() == [0, 255]
    palette = Image.fromarray(grey).convert("P")
    opened = reopened(encoded(palette, transparency=bytes([255] * 7 + [0])))
    assert fit(opened, 1, 2, 1).ravel().tolist() == [0, 255]


def test_half_transparency_mixes_with_the_ground_of_the_manifest() -> None:
    image = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    target = ImageInput(height=1, width=1, channels=3, ground=(0, 255, 100))
    assert fit_image(image, target).tolist() == [[[0, 127, 50]]]


def photo(size: tuple[int, int]) -> Image.Image:
    """Smooth colours, as photos have them."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("rule", RULES)
def test_a_large_jpeg_decoded_at_a_fraction_looks_the_same(rule: Resize) -> None:
    content = encoded(photo((1600, 1200)), "JPEG", quality=95)
    opened = reopened(content)
    fitted = fit(opened, 224, 224, 3, rule)
    assert opened.size == (400, 300), "a quarter: an eighth would be smaller than the target"
    whole = reopened(content).convert("RGB")  # decoded already: nothing is left to save
    difference = np.abs(fitted.astype(int) - fit(whole, 224, 224, 3, rule))
    assert difference.mean() < 1
    assert difference.max() < 24


def test_a_turned_jpeg_is_upright_before_it_is_cropped() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    wide = Image.new("RGB", (2000, 1000), "red")
    ImageDraw.Draw(wide).rectangle((0, 0, 999, 999), "lime")
    opened = reopened(encoded(wide, "JPEG", exif=exif))
    fitted = fit(opened, 100, 100, resize="crop").astype(int)
    assert fitted[5, 50, 1] > 200, "what was left is above"
    assert fitted[95, 50, 0] > 200


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_is_turned_as_pillow_turns_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photo((6, 4)), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(reopened(content)).convert("RGB"))
    np.testing.assert_array_equal(fit(reopened(content), *expected.shape[:2]), expected)


def exif_of(*entries: tuple[int, int, bytes]) -> bytes:
    """Little-endian EXIF of a tag, a type and a value of four bytes each."""
    fields = [struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in entries]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + b"".join(fields) + bytes(4)


def test_what_else_exif_says_need_not_be_sound() -> None:
    turned, camera = struct.pack("<HH", 6, 0), struct.pack("<I", 0)
    content = encoded(photo((6, 4)), "JPEG", exif=exif_of((0x010F, 5, camera), (0x0112, 3, turned)))
    upright = reopened(content).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(fit(reopened(content), 6, 4), np.asarray(upright))
    content = encoded(photo((6, 4)), "JPEG", exif=b"Exif\0\0no TIFF at all")
    np.testing.assert_array_equal(fit(reopened(content), 4, 6), np.asarray(reopened(content)))


@pytest.mark.parametrize("size", [(32, 32), (63, 40)])
def test_a_small_jpeg_is_decoded_whole(size: tuple[int, int]) -> None:
    content = encoded(photo(size), "JPEG", quality=90)
    target = ImageInput(height=32, width=32, channels=3)
    expected = reopened(content).resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(fit_image(reopened(content), target), np.asarray(expected))


def test_twelve_megapixels_are_not_decoded_whole() -> None:
    content = encoded(photo((4000, 3000)), "JPEG")
    opened = reopened(content)
    fit(opened, 224, 224)
    assert opened.size == (500, 375)
