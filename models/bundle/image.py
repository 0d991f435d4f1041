"""The resize rule: from a Pillow image to the uint8 array that segment 1 takes.

Training, evaluation and the server all call `fit_image`.
"""

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from models.bundle.image_input import Colour, ImageInput

FORMATS = ("PNG", "JPEG", "WEBP")
MODES = {1: "L", 3: "RGB"}  # Pillow's name for each number of channels
ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Where Pillow looks for an orientation."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of an orientation upright."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels."""


def fit_image(image: Image.Image, target: ImageInput) -> NDArray[np.uint8]:
    """Converts and resizes to (height, width, channels) of `target`, by its `resize` rule.

    A JPEG of at least twice the size is decoded at a half, a quarter or an eighth. The image is
    turned upright by its EXIF orientation. 16 bits keep their high byte. What is transparent shows
    the ground. Resizing is bilinear: `squash` gives up the aspect ratio; `crop` scales the short
    side and cuts the centre; `pad` scales the long side and fills up with the ground.
    """
    image = upright(image, target, side_of(target))
    size = target.width, target.height
    if image.size == size and target.short_side is None:
        pass
    elif target.resize == "squash":
        image = image.resize(size, Image.Resampling.BILINEAR)
    elif target.resize == "crop":
        image = image.resize(size, Image.Resampling.BILINEAR, box=centre(image, target))
    else:
        image = padded(image, target)
    return pixels(image)


def side_of(target: ImageInput) -> int:
    """The pixels that both sides of a decoded image must have, where the file has so many."""
    return max(target.height, target.width, target.short_side or 0)


def upright(image: Image.Image, target: ImageInput, side: int) -> Image.Image:
    """Decodes to the target's channels, upright, with neither side below `side` if it can be."""
    image.draft(None, (side, side))  # does nothing to other formats, nor to small images
    image.load()
    if not ORIENTED.isdisjoint(image.info):
        image = turned(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = on_ground(image, target.ground)
    mode = MODES[target.channels]
    return image if image.mode == mode else image.convert(mode)


def turned(image: Image.Image) -> Image.Image:
    """Upright by the orientation, where it can be read; the image is whole without it."""
    turn = None
    with suppress(Exception):  # Pillow raises what it likes on damaged EXIF
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def on_ground(image: Image.Image, ground: Colour) -> Image.Image:
    """The image as it looks on a ground of one colour."""
    image = image.convert("RGBA")
    whole = Image.new("RGB", image.size, ground)
    whole.paste(image, mask=image.getchannel("A"))
    return whole


def centre(image: Image.Image, target: ImageInput) -> Box:
    """The part of the image that `crop` keeps."""
    scale = max(target.width / image.width, target.height / image.height)
    if target.short_side is not None:
        scale *= target.short_side / min(target.width, target.height)
    width = min(image.width, target.width / scale)
    height = min(image.height, target.height / scale)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return left, top, left + width, top + height


def padded(image: Image.Image, target: ImageInput) -> Image.Image:
    """The whole image amid the ground."""
    scale = min(target.width / image.width, target.height / image.height)
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    whole = Image.new("RGB", (target.width, target.height), target.ground).convert(image.mode)
    place = (target.width - size[0]) // 2, (target.height - size[1]) // 2
    whole.paste(image.resize(size, Image.Resampling.BILINEAR), place)
    return whole


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(height, width, channels) of an image of 8 bits a channel."""
    shape = image.height, image.width, len(image.getbands())
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)
