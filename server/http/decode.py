"""Encoded images to the uint8 arrays a model takes, without trusting a byte of them."""

import io
import re
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from struct import Struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from models.bundle.image import FORMATS, fit_image, side_of
from models.bundle.image_input import ImageInput
from server.engine.job import Given
from server.engine.pace import Decoding
from server.errors import BadImage, ImageTooLarge, Infeasible

Image.init()  # or the first images, and the first that are none, would wait for every plugin
MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp")
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
FOLLOWS = (b"", 64 * b"\x55")
SCANS = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
"""The headers of a JPEG's scans: marker, length, number of components. Other data hold few such."""
MAX_SCANS = 100
"""A progressive JPEG has about ten. Each scan goes over all pixels, even where it has no data."""
PNG_START, CHUNK = b"\x89PNG\r\n\x1a\n", Struct(">I4s")
CHUNK_END_BYTES = 4
INFLATED = frozenset((b"zTXt", b"iTXt", b"iCCP"))
"""Chunks of a PNG that Pillow inflates when it opens the file, each to a MiB at most."""
MAX_INFLATED = 16
SMALL_BYTES, SMALL_PIXELS = 131_072, 200_000
"""A request's images up to here, all together, are decoded on the event loop: a JPEG of so many
pixels takes 3 ms on a slow core. A thread would take as long, and share the interpreter."""


def bound_decoders(max_pixels: int) -> None:
    """Refuses, in the whole process, to open an image of more than twice these pixels.

    Without it WebP's decoder would take memory for every pixel that a header claims, before the
    size can be read. Pillow also warns of images above the limit itself, and Python keeps every
    warning; they are switched off.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Images:
    """The encoded images of a request, for a model whose input is `target`.

    `by` is the monotonic instant by which a strict request must be decoded: it is refused where
    `pace` expects decoding to take longer. `name` is what the request calls the list of them.
    """

    contents: Sequence[bytes]
    target: ImageInput
    max_pixels: int
    pace: Decoding = field(default_factory=Decoding)
    by: float = inf
    name: str = "images"
    length = 0

    @property
    def num_rows(self) -> int:
        return len(self.contents)

    def decode_here(self) -> list[Given] | None:
        """The images where they are small, or None: a thread is to decode what takes longer."""
        if sum(map(len, self.contents)) > SMALL_BYTES or any(map(num_inflated, self.contents)):
            return None
        with suppress(ImageTooLarge):  # few bytes can be many pixels
            most = SMALL_PIXELS // len(self.contents)
            return replace(self, max_pixels=min(most, self.max_pixels)).decode()
        return None

    def parts(self) -> list[Callable[[], list[Given]]]:
        """A large image, or small ones of `SMALL_BYTES` together."""
        groups: list[list[int]] = []
        num_bytes = 0
        for index, content in enumerate(self.contents):
            num_bytes += len(content)
            if not groups or num_bytes > SMALL_BYTES:
                groups.append([])
                num_bytes = len(content)
            groups[-1].append(index)
        return [partial(self._decoded, group) for group in groups]

    def decode(self) -> list[Given]:
        return self._decoded(range(self.num_rows))

    def sources(self) -> list[bytes]:
        return [b"file:" + content for content in self.contents]

    def _decoded(self, indices: Sequence[int]) -> list[Given]:
        return [self.decode_one(index) for index in indices]

    def decode_one(self, index: int) -> Given:
        """An image; an error names it where there are several.

        Raises Infeasible, before it decodes the first, where all would be ready too late.
        """
        if index == 0 and self.by < inf:
            self._check_time()
        try:
            content = self.contents[index]
            return Given.of(decode_image(content, self.target, self.max_pixels, self.pace))
        except (BadImage, ImageTooLarge) as error:
            if self.num_rows == 1:
                raise
            raise type(error)(error.detail, f"{self.name}.{index}") from error

    def _check_time(self) -> None:
        needed_s = sum(map(self._expected_s, self.contents))
        left_s = max(0.0, self.by - time.monotonic())
        if needed_s > left_s:
            raise Infeasible(
                f"decoding needs {1000 * needed_s:.3f} ms, "
                f"{1000 * left_s:.3f} ms are left for it before exit 1",
                "latency_budget_ms",
            )

    def _expected_s(self, content: bytes) -> float:
        """From the header; 0 for an image that will be refused for another reason."""
        with suppress(Exception), open_image(content) as image:
            kind, num_pixels = work_of(image, self.target)
            if num_pixels <= self.max_pixels:
                return self.pace.expected_s(kind, num_pixels)
        return 0.0


def open_image(content: bytes) -> Image.Image:
    """Reads the header; raises what Pillow raises, and BadImage for too much work."""
    if content.startswith(JPEG_START) and len(SCANS.findall(content)) > MAX_SCANS:
        raise BadImage(f"the JPEG has more than {MAX_SCANS} scans")
    if num_inflated(content) > MAX_INFLATED:
        raise BadImage(f"the PNG has more than {MAX_INFLATED} compressed texts and profiles")
    return Image.open(io.BytesIO(content), formats=FORMATS)


def num_inflated(content: bytes) -> int:
    """How many chunks of a PNG are INFLATED."""
    num, at = 0, len(PNG_START)
    while content.startswith(PNG_START) and at + CHUNK.size <= len(content):
        num_bytes, name = CHUNK.unpack_from(content, at)
        num += name in INFLATED
        at += CHUNK.size + num_bytes + CHUNK_END_BYTES
    return num


def work_of(image: Image.Image, target: ImageInput) -> tuple[str, int]:
    """What the time to decode an opened image depends on: its kind, and its header's pixels."""
    num_pixels = image.width * image.height
    if not isinstance(image, JpegImageFile):
        return image.format or "", num_pixels
    image.draft(None, (side_of(target), side_of(target)))
    divisor = image.decoderconfig[0] if image.decoderconfig else 1
    return f"JPEG/{divisor}", num_pixels


def decode_image(
    content: bytes, target: ImageInput, max_pixels: int, pace: Decoding | None = None
) -> NDArray[np.uint8]:
    """One PNG, JPEG or WebP as (height, width, channels); its size is checked before decoding.

    `pace` learns how long it took.
    """
    try:
        return opened(content, target, max_pixels, pace or Decoding())
    except (BadImage, ImageTooLarge):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"too many pixels; at most {max_pixels} are decoded") from error
    except UnidentifiedImageError as error:
        raise BadImage(f"not a {', '.join(FORMATS)} image") from error
    except Exception as error:  # Pillow's plugins raise what they like on damaged chunks
        if (image := without_end(content, target)) is not None:
            return image
        raise BadImage(f"the image is damaged: {error}") from error


def opened(
    content: bytes, target: ImageInput, max_pixels: int, pace: Decoding
) -> NDArray[np.uint8]:
    """Raises what Pillow raises, BadImage and ImageTooLarge."""
    started = time.monotonic()
    with open_image(content) as image:
        if image.width * image.height > max_pixels:
            raise ImageTooLarge(
                f"{image.width} x {image.height} pixels; at most {max_pixels} are decoded"
            )
        kind, num_pixels = work_of(image, target)
        fitted = fit_image(image, target)
    pace.took(kind, num_pixels, time.monotonic() - started)
    return fitted


def without_end(content: bytes, target: ImageInput) -> NDArray[np.uint8] | None:
    """A JPEG that lacks only its end marker, as browsers show it; None where it lacks more.

    The image is decoded with two different endings. A decoder fills missing pixels from the bytes
    that follow: where both results are equal, no pixel was missing. The size has been checked.
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
