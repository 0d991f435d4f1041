"""Encoded images to the uint8 arrays a model takes, without trusting a byte of them."""

import io
import time
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.bundle.image import FORMATS, fit_image
from models.bundle.manifest import Input
from server.errors import BadImage, ImageTooLarge

Image.init()  # or the first images, and the first that are none, would wait for every plugin
MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")


def bound_decoders(max_pixels: int) -> None:
    """For the whole process: no decoder is made for an image of more than twice these pixels.

    WebP's takes memory for as many as a header claims before anybody can ask how many those are.
    Pillow's warnings about the others would be kept, each of them, for good.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def decode_images(
    contents: list[bytes], target: Input, max_pixels: int
) -> tuple[list[NDArray[np.uint8]], float]:
    """Every image, and the seconds it took; an error names the image where there are several."""
    started = time.monotonic()
    images = []
    for index, content in enumerate(contents):
        try:
            images.append(decode_image(content, target, max_pixels))
        except (BadImage, ImageTooLarge) as error:
            if len(contents) > 1:
                error.field = f"images.{index}"
            raise
    return images, time.monotonic() - started


def decode_image(content: bytes, target: Input, max_pixels: int) -> NDArray[np.uint8]:
    """One PNG, JPEG or WebP as (height, width, channels); its size is checked before decoding."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageTooLarge(
                    f"{image.width} x {image.height} pixels; at most {max_pixels} are decoded"
                )
            return fit_image(image, target)
    except ImageTooLarge:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(str(error)) from error
    except UnidentifiedImageError as error:
        raise BadImage(f"not a {', '.join(FORMATS)} image") from error
    except Exception as error:  # Pillow's plugins raise what they like on damaged chunks
        raise BadImage(f"the image is damaged: {error}") from error
