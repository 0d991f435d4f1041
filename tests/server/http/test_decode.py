import io
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, WebPImagePlugin
from PIL.PngImagePlugin import PngInfo

from models.bundle.image import fit_image
from models.bundle.image_input import ImageInput
from server.engine.pace import Decoding
from server.errors import BadImage, ImageTooLarge, Infeasible
from server.http.decode import Images, bound_decoders, decode_image, work_of
from server.http.problems import complaints
from tests.images import encoded, reopened

COLOUR = ImageInput(height=4, width=4, channels=3)
GREY = ImageInput(height=4, width=4, channels=1)


def test_pixels_pass_unchanged_at_the_right_size() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    decoded = decode_image(encoded(pixels), COLOUR, 100)
    np.testing.assert_array_equal(decoded, pixels)


def test_other_sizes_are_resized() -> None:
    decoded = decode_image(encoded(Image.new("RGB", (9, 17), (1, 2, 3))), COLOUR, 1000)
    assert decoded.shape == (4, 4, 3)
    assert (decoded == (1, 2, 3)).all()


@pytest.mark.parametrize(
    ("mode", "colour", "grey", "rgb"),
    [
        ("L", 7, 7, (7, 7, 7)),
        ("RGB", (10, 20, 30), 18, (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), 18, (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), 255, (255, 255, 255)),
        ("1", 1, 255, (255, 255, 255)),
    ],
)
def test_modes_convert(
    mode: str, colour: int | tuple[int, ...], grey: int, rgb: tuple[int, int, int]
) -> None:
    content = encoded(Image.new(mode, (4, 4), colour))
    assert (decode_image(content, GREY, 100) == grey).all()
    assert (decode_image(content, COLOUR, 100) == rgb).all()


def test_16_bit_grey_keeps_its_high_byte() -> None:
    pixels = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096
    decoded = decode_image(encoded(Image.fromarray(pixels)), GREY, 100)
    np.testing.assert_array_equal(decoded[..., 0], np.arange(16).reshape(4, 4) * 16)


def test_no_decoder_is_made_for_what_is_far_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """WebP's own would take memory for all the pixels that the header claims."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    frames = [Image.new("RGBA", (4, 4), colour) for colour in ("red", "blue")]
    content = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert content[12:16] == b"VP8X"
    content[24:30] = 2 * (999).to_bytes(3, "little")
    with warnings.catch_warnings(record=True) as warned:
        bound_decoders(600_000)
        with pytest.raises(
            ImageTooLarge, match=r"^1000 x 1000 pixels; at most 600000 are decoded$"
        ):
            decode_image(bytes(content), COLOUR, 600_000)
        monkeypatch.setattr(WebPImagePlugin, "_webp", None)
        bound_decoders(400_000)
        with pytest.raises(ImageTooLarge, match=r"^too many pixels; at most 400000 are decoded$"):
            decode_image(bytes(content), COLOUR, 400_000)
    assert warned == []


def test_exif_orientation_turns_the_image_upright() -> None:
    image = Image.new("L", (4, 4), 255)
    image.putpixel((0, 0), 0)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    decoded = decode_image(buffer.getvalue(), GREY, 100)
    assert decoded[3, 3, 0] == 0
    assert decoded[0, 0, 0] == 255


def test_size_is_checked_before_decoding() -> None:
    content = encoded(Image.new("L", (10, 10)))
    header_only = content[:45]
    with pytest.raises(ImageTooLarge, match="10 x 10"):
        decode_image(header_only, GREY, 99)


NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
JPEGS = [encoded(NOISE, "JPEG", progressive=progressive) for progressive in (False, True)]


@pytest.mark.parametrize("whole", JPEGS, ids=["baseline", "progressive"])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_marker_is_decoded(whole: bytes, cut: int) -> None:
    assert whole.endswith(b"\xff\xd9")
    expected = decode_image(whole, COLOUR, 10_000)
    np.testing.assert_array_equal(decode_image(whole[:-cut], COLOUR, 10_000), expected)


@pytest.mark.parametrize("whole", JPEGS, ids=["baseline", "progressive"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_that_lacks_more_is_refused(whole: bytes, share: float) -> None:
    with pytest.raises(BadImage, match="damaged"):
        decode_image(whole[: int(share * len(whole))], COLOUR, 10_000)


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    """A scan may be repeated as often as the bytes allow; a decoder only warns of it."""
    whole = JPEGS[1]
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    decoded = decode_image(whole[:-2] + 90 * scan + whole[-2:], COLOUR, 10_000)
    assert decoded.shape == (4, 4, 3)
    with pytest.raises(BadImage, match=r"^the JPEG has more than 100 scans$"):
        decode_image(whole[:-2] + 100 * scan + whole[-2:], COLOUR, 10_000)


def test_a_png_of_very_many_compressed_texts_is_refused() -> None:
    assert decode_image(with_texts(16, zip=True), GREY, 100).shape == (4, 4, 1)
    assert decode_image(with_texts(17, zip=False), GREY, 100).shape == (4, 4, 1)
    with pytest.raises(BadImage, match=r"^the PNG has more than 16 compressed texts"):
        decode_image(with_texts(17, zip=True), GREY, 100)


def with_texts(num_texts: int, *, zip: bool) -> bytes:
    texts = PngInfo()
    for _ in range(num_texts):
        texts.add_text("Comment", "text", zip=zip)
    return encoded(Image.new("L", (4, 4)), pnginfo=texts)


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("JPEG", (8, 8), "JPEG/2"),
        ("JPEG", (7, 33), "JPEG/1"),
        ("JPEG", (17, 16), "JPEG/4"),
        ("JPEG", (400, 300), "JPEG/8"),
        ("PNG", (400, 300), "PNG"),
        ("WEBP", (400, 300), "WEBP"),
    ],
)
def test_what_decoding_costs_is_read_from_the_header(
    kind: str, size: tuple[int, int], expected: str
) -> None:
    content = encoded(Image.new("L", size), kind)
    with reopened(content) as image:
        assert work_of(image, GREY) == (expected, size[0] * size[1])
        assert fit_image(image, GREY).tolist() == decode_image(content, GREY, 10**6).tolist()


def test_images_that_would_be_decoded_too_late_are_refused() -> None:
    """Once the server has learned how slow it is; before, there seemed to be time."""
    pace, pixels = Decoding(), 300 * 300
    content = encoded(Image.new("L", (300, 300)))

    def decode(num_images: int, seconds: float) -> int:
        by = time.monotonic() + seconds
        return len(Images([content] * num_images, GREY, 10**6, pace, by).decode())

    assert decode(1, 1) == 1
    for _ in range(20):
        pace.took("PNG", pixels, 0.02)
    with pytest.raises(Infeasible, match=r"^decoding needs (39|40)\.\d+ ms, \d\.\d+ ms are left"):
        decode(2, 0.007)
    assert decode(2, 10) == 2


def test_a_refused_image_of_several_is_named_as_the_request_calls_it() -> None:
    small, large = (encoded(Image.new("L", (side, side))) for side in (4, 5))
    images = partial(Images, target=GREY, max_pixels=16)
    with pytest.raises(BadImage, match=r"^images\.1: not a PNG") as refused:
        images([small, b""]).decode()
    (said,) = complaints(refused.value)
    assert f"{said['field']}: {said['detail']}" == str(refused.value)
    assert said["field"] == "images.1"
    with pytest.raises(ImageTooLarge, match=r"^inputs\.0\.data\.0: 5 x 5 pixels"):
        images([large, small], name="inputs.0.data").decode()
    with pytest.raises(BadImage, match=r"^not a PNG"):
        images([b""]).decode()


def test_no_image_is_the_first_to_need_a_plugin() -> None:
    code = "import server.http.decode; from PIL import Image; print(Image.init())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n", "all had been loaded before"


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(BadImage):
        decode_image(content, GREY, 100)


@given(st.integers(0, 75), st.integers(0, 255))
def test_a_damaged_image_decodes_or_is_refused(position: int, value: int) -> None:
    content = bytearray(encoded(Image.new("L", (4, 4))))
    content[position % len(content)] = value
    try:
        decoded = decode_image(bytes(content), GREY, 10_000)
    except (BadImage, ImageTooLarge):
        return
    assert decoded.shape == (4, 4, 1)
