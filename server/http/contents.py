"""A request's rows before their model is known, and how a model of that kind reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from models.bundle.image_input import ImageInput
from models.bundle.manifest import AnyInput
from models.bundle.tensor_input import TensorInput
from server.engine.model import ServedModel
from server.engine.pace import Decoding
from server.errors import BadParameter, UnsupportedMedia
from server.http.decode import MEDIA_TYPES, Images
from server.http.rows import Rows
from server.http.texts import Texts
from server.running import Encoded
from server.settings import Settings

Kind = Literal["image", "text", "tensor"]
TEXT = "text/plain"
TAKES = {
    "image": f"images: {', '.join(MEDIA_TYPES)}, multipart/form-data, or JSON with `images`",
    "text": f"texts: {TEXT}, or JSON with `texts`",
    "tensor": "rows of numbers: JSON with `rows`",
}
ROW_NAMES: dict[str, str] = {"image": "image", "text": "text", "tensor": "row"}
"""What an event calls a row of the request."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The rows of a request: encoded images, texts, or JSON values.

    `field` is where a JSON body has them; it is None where the body itself is the one row, of the
    content type `media_type`.
    """

    kind: Kind
    values: Sequence[Any]
    field: str | None = None
    media_type: str = ""


def encoded(
    contents: Contents, model: ServedModel, settings: Settings, pace: Decoding, by: float = inf
) -> Encoded:
    """The rows for a model; raises UnsupportedMedia or BadParameter where it takes another kind.

    Images that would be decoded later than `by`, on the monotonic clock, are refused.
    """
    takes = model.manifest.input
    if contents.kind != takes.kind:
        refuse(contents, model.manifest.name, takes)
    if isinstance(takes, ImageInput):
        name, limit = contents.field or "images", settings.limits.max_image_pixels
        return Images(contents.values, takes, limit, pace, by, name)
    if isinstance(takes, TensorInput):
        return Rows(contents.values, takes.tensors)
    assert model.reader is not None
    limit = settings.limits.max_text_characters
    return Texts(contents.values, names_of(contents), model.reader, limit)


def names_of(contents: Contents) -> list[str]:
    """The name of each row, for messages."""
    if contents.field is None:
        return [ROW_NAMES[contents.kind]]
    return [f"{contents.field}.{number}" for number in range(len(contents.values))]


def refuse(contents: Contents, name: str, takes: AnyInput) -> None:
    """Says what the model takes."""
    detail = f"{name} takes {TAKES[takes.kind]}"
    if contents.field is None:
        raise UnsupportedMedia(f"content type {contents.media_type!r}; {detail}")
    raise BadParameter(contents.field, detail)
