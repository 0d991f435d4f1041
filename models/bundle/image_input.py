"""What a model of images takes, as its manifest says it."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from models.bundle.records import BATCH, Graph, Record, Tensor

Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]
"""Red, green and blue."""

Resize = Literal["squash", "crop", "pad"]
ResizeInManifest = Annotated[
    Resize, BeforeValidator(lambda rule: "squash" if rule == "bilinear" else rule)
]
"""Bundles written before there were three rules call squashing "bilinear"."""


class ImageInput(Record):
    """Images: uint8, (-1, height, width, channels).

    Images of other sizes are fitted by `resize`: `squash` to the size, `crop` the centre after the
    short side was scaled, or `pad` with the ground. `short_side` is the size of the scaled short
    side before cropping, where it is not the target's own: 256 where published networks take
    224. `ground` is the colour under transparency.
    """

    kind: Literal["image"] = "image"
    layout: Literal["NHWC"] = "NHWC"
    height: PositiveInt
    width: PositiveInt
    channels: Literal[1, 3]
    resize: ResizeInManifest = "squash"
    short_side: PositiveInt | None = None
    ground: Colour = (255, 255, 255)

    @model_validator(mode="after")
    def _crop_is_within(self) -> Self:
        if self.short_side is not None:
            if self.resize != "crop":
                raise ValueError(f"{self.resize} has no short_side")
            if self.short_side < max(self.height, self.width):
                raise ValueError("short_side must be at least the height and the width")
        return self

    @property
    def length_buckets(self) -> tuple[int, ...]:
        return ()

    @property
    def least(self) -> dict[str, int]:
        return {}

    def tensors_of(self, first: Graph) -> tuple[Tensor, ...]:
        """What segment 1, `first`, has to take; it is free to name the images."""
        shape = BATCH, self.height, self.width, self.channels
        return (Tensor(name=first.inputs[0].name, dtype="uint8", shape=shape),)
