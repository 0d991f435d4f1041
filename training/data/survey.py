"""What the images of a split are like, read from the headers of a sample."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image
from pydantic import ValidationError

from models.bundle.image_input import Colour, ImageInput, Resize
from training.data.errors import DataError, Undecodable, listed
from training.data.rows import Rows

SAMPLE = 5000
"""Rows looked at, spread evenly over all."""

GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")
ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Undecodable)
"""What Pillow raises on broken files; it calls a broken PNG a syntax error."""

Size = tuple[int, int]


@dataclass
class Survey:
    """Counts over the rows looked at; `unreadable` says which have no readable header, and why."""

    num_rows: int
    num_seen: int = 0
    num_grey: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)

    @property
    def channels(self) -> int:
        """One, if every image looked at is grey; else three."""
        return 1 if self.num_grey == self.sizes.total() else 3

    def __str__(self) -> str:
        colour = f"in colour, {self.num_grey} of them grey" if self.channels == 3 else "grey"
        least, most = (size(end(self.sizes)) for end in (min, max))
        sizes = f"{least} pixels" if least == most else f"from {least} to {most} pixels"
        return f"{self.num_seen} of {self.num_rows} images looked at: {colour}, {sizes}"


def size(given: Size) -> str:
    return f"{given[0]}x{given[1]}"


def survey(rows: Rows) -> Survey:
    """Opens a sample of the images without decoding them."""
    num_rows = len(rows.labels)
    seen = Survey(num_rows)
    for row in np.unique(np.linspace(0, num_rows - 1, min(SAMPLE, num_rows)).astype(int)).tolist():
        seen.num_seen += 1
        try:
            with rows.open(row) as image:
                seen.sizes[image.size] += 1
                seen.num_grey += image.mode in GREY
        except ERRORS as error:
            seen.unreadable.append(complaint(rows, row, error))
    return seen


def complaint(rows: Rows, row: int, error: BaseException) -> str:
    return str(error) if isinstance(error, Undecodable) else f"{rows.describe(row)} ({error})"


def choose_input(
    seen: Survey,
    title: str,
    image_size: int | None,
    resize: Resize,
    crop_share: float | None,
    ground: Colour,
) -> ImageInput:
    """What a network for these images takes: squares of `image_size`, or the size they all have."""
    if not seen.sizes:
        raise DataError(f"no image of {title} can be opened: {listed(seen.unreadable)}")
    if image_size is None and len(seen.sizes) > 1:
        raise DataError(
            f"{title} has images of {len(seen.sizes)} sizes, from {size(min(seen.sizes))} to "
            f"{size(max(seen.sizes))}; choose one with --set image_size=PIXELS"
        )
    (width, height) = (image_size, image_size) if image_size else next(iter(seen.sizes))
    try:
        return ImageInput.model_validate(
            {
                "height": height,
                "width": width,
                "channels": seen.channels,
                "resize": resize,
                "short_side": crop_share and round(max(width, height) / crop_share),
                "ground": ground,
            }
        )
    except ValidationError as error:
        raise DataError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
