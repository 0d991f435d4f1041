"""Encoded images to the uint8 arrays a model takes, without trusting a byte of them."""

import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.bundle.image import FORMATS, fit_image
from models.bundle.manifest import Input
from server.engine.job import Given
from server.errors import BadImage, ImageTooLarge

Image.init()  # or the first images, and the first that are none, would wait for every plugin
MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
FOLLOWS = (b"", 64 * b"\x55")
SMALL_BYTES, SMALL_PIXELS = 8192, 16_384
"""Of a request's images. A PNG of 32 pixels is decoded in 0.09 ms, faster than a thread wakes."""


def bound_decoders(max_pixels: int) -> None:
    """For the whole process: no decoder is made for an image of more than twice these pixels.

    WebP's takes memory for as many as a header claims before anybody can ask how many those are.
    Pillow's warnings about the others would be kept, each of them, for good.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Images:
    """The encoded images of a request, for a model whose input is `target`."""

    contents: Sequence[bytes]
    target: Input
    max_pixels: int
    length = 0

    @property
    def num_rows(self) -> int:
        return len(self.contents)

    def decode_here(self) -> list[Given] | None:
        """The images where they are small, or None: a thread is to decode what takes longer."""
        if sum(map(len, self.contents)) > SMALL_BYTES:
            return None
        with suppress(ImageTooLarge):  # few bytes can be many pixels
            return replace(self, max_pixels=min(SMALL_PIXELS, self.max_pixels)).decode()
        return None

    def decode(self) -> list[Given]:
        """Every image; an error names the image where there are several."""
        images: list[Given] = []
        for index, content in enumerate(self.contents):
            try:
                images.append(Given.of(decode_image(content, self.target, self.max_pixels)))
            except (BadImage, ImageTooLarge) as error:
                if len(self.contents) > 1:
                    error.field = f"images.{index}"
                raise
        return images


def decode_image(content: bytes, target: Input, max_pixels: int) -> NDArray[np.uint8]:
    """One PNG, JPEG or WebP as (height, width, channels); its size is checked before decoding."""
    try:
        return opened(content, target, max_pixels)
    except ImageTooLarge:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"too many pixels; at most {max_pixels} are decoded") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"not a {', '.join(FORMATS)} image") from error
    except Exception as error:  # Pillow's plugins raise what they like on damaged chunks
        if (image := without_end(content, target)) is not None:
            return image
        raise BadImage(f"the image is damaged: {error}") from error


def opened(content: bytes, target: Input, max_pixels: int) -> NDArray[np.uint8]:
    """Raises what Pillow raises, and ImageTooLarge."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise ImageTooLarge(
                f"{image.width} x {image.height} pixels; at most {max_pixels} are decoded"
            )
        return fit_image(image, target)


def without_end(content: bytes, target: Input) -> NDArray[np.uint8] | None:
    """A JPEG that lacks only its end marker, as browsers show it; None where it lacks more.

    A decoder fills in what is missing from the bytes that follow. Where nothing is missing, those
    change no pixel. The image's size has been checked.
    """
    if not content.startswith(JPEG_START):
        return None
    complete = content.rstrip(JPEG_END[:1])  # half an end marker may be there
    whole, other = (io.BytesIO(complete + follows + JPEG_END) for follows in FOLLOWS)
    with suppress(Exception), Image.open(whole) as image, Image.open(other) as same:
        if image.tobytes() == same.tobytes():
            whole.seek(0)
            with Image.open(whole) as again:  # a large one is decoded at a fraction of its size
                return fit_image(again, target)
    return None
