"""Images as clients send them."""

import io
import struct
import zlib
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


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Part of a PNG file, with a right checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def reopened(content: bytes) -> Image.Image:
    """The file as an image that is not decoded yet."""
    return Image.open(io.BytesIO(content))
