"""The resize rule: from a Pillow image to the uint8 array that segment 1 takes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")
MODES = {1: "L", 3: "RGB"}  # Pillow's name for each number of channels
ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Where Pillow looks for an orientation."""


def fit_image(image: Image.Image, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Converts and resizes to (height, width, channels).

    Turned upright by its EXIF orientation; 16-bit grey keeps its high byte, transparency is
    dropped; resized bilinearly, aspect ratio not kept.
    """
    image.load()
    if not ORIENTED.isdisjoint(image.info):
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode != MODES[channels]:
        image = image.convert(MODES[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, channels)
