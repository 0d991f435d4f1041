"""Images as clients send them."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encoded(
    image: Image.Image | NDArray[np.uint8],
    kind: str = "PNG",
    **options: Any,  # noqa: ANN401
) -> bytes:
    """A file's bytes, from a Pillow image or a (height, width, channels) array."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image.squeeze())
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reopened(content: bytes) -> Image.Image:
    """The file as an image that is not decoded yet."""
    return Image.open(io.BytesIO(content))
