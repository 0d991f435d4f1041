"""Encoded images to the uint8 arrays a model takes, without trusting a byte of them."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.bundle.image import FORMATS, fit_image
from models.bundle.manifest import Input

MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")


class BadImage(Exception):
    """The bytes are no image that can be decoded."""


class ImageTooLarge(Exception):
    """The image has more pixels than may be decoded."""


def decode_image(content: bytes, target: Input, max_pixels: int) -> NDArray[np.uint8]:
    """One PNG, JPEG or WebP as (height, width, channels); its size is checked before decoding."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageTooLarge(
                    f"{image.width} x {image.height} pixels; at most {max_pixels} are decoded"
                )
            return fit_image(image, target.height, target.width, target.channels)
    except UnidentifiedImageError as error:
        raise BadImage(f"not a {', '.join(FORMATS)} image") from error
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(str(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadImage(f"the image is damaged: {error}") from error
