"""The bundle's index, `manifest.json`, as a type.

What segment 1 takes goes by the `kind` of the manifest's `input`:

- `image`: one uint8 tensor, (-1, height, width, channels).
- `text`: the int64 tensors that `inputs` names, in that order, each (-1, -2). A text is padded to
  the smallest of `length_buckets` that holds its tokens, and cut at the largest.
- `tensor`: the tensors of `tensors`, in that order, each with -1 before its shape.

Each segment takes all that the segment before it puts out, and nothing else: what a later segment
needs, such as the mask, is handed on by every one before it.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.bundle.errors import UserError
from models.bundle.image_input import ImageInput
from models.bundle.records import BATCH, LENGTH, File, Graph, Record, shapes
from models.bundle.tensor_input import TensorInput
from models.bundle.text_input import TextInput

MANIFEST = "manifest.json"
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

Key = tuple[str, int]
"""A model's name and version."""
ModelName = Annotated[str, Field(pattern=MODEL_NAME)]
AnyInput = Annotated[ImageInput | TextInput | TensorInput, Field(discriminator="kind")]


class Provenance(Record):
    """Where the weights come from."""

    git_commit: str
    data: str
    split: str
    seed: int
    epochs: PositiveInt
    config: dict[str, str | int | float | bool | list[int] | None]
    packages: dict[str, str]
    precision: Literal["float32", "int8"] = "float32"


class Manifest(Record):
    """The bundle's index. Segment k and exit head k belong to exit k."""

    schema_version: Literal[1]
    name: ModelName
    version: PositiveInt
    input: AnyInput
    labels: tuple[str, ...] = Field(min_length=2)
    segments: tuple[Graph, ...] = Field(min_length=1)
    exit_heads: tuple[Graph, ...]
    calibration: File
    cost: File
    provenance: Provenance

    @property
    def num_exits(self) -> int:
        return len(self.segments)

    @property
    def image_input(self) -> ImageInput:
        """The input of a model of images; raises UserError for another."""
        if isinstance(self.input, ImageInput):
            return self.input
        raise UserError(f"{self.name} takes {self.input.kind}, not images")

    @model_validator(mode="after")
    def _graphs_chain(self) -> Self:
        exits = list(range(1, self.num_exits + 1))
        for kind, graphs in (("segments", self.segments), ("exit_heads", self.exit_heads)):
            if [graph.exit for graph in graphs] != exits:
                raise ValueError(f"{kind} must be numbered 1 to {self.num_exits}, in order")
        given = self.input.tensors_of(self.segments[0])
        for segment, head in zip(self.segments, self.exit_heads, strict=True):
            if segment.inputs != given:
                raise ValueError(
                    f"{segment.file} takes {shapes(segment.inputs)}, gets {shapes(given)}"
                )
            given = segment.outputs
            if not set(head.inputs) <= set(given):
                raise ValueError(f"{head.file} takes {shapes(head.inputs)}, gets {shapes(given)}")
            if [(t.dtype, t.shape) for t in head.outputs] != [("float32", (-1, len(self.labels)))]:
                raise ValueError(f"{head.file} must give one logit per label: {len(self.labels)}")
            if any(tensor.shape[:1] != (BATCH,) for tensor in given):
                raise ValueError(f"{segment.file} must give features of any batch")
        return self

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        buckets = self.input.length_buckets
        for graph in (*self.segments, *self.exit_heads):
            if sorted(graph.macs_by_length) != list(buckets):
                raise ValueError(f"{graph.file} must have macs_by_length of {list(buckets)}")
            if buckets and graph.macs_by_length[buckets[-1]] != graph.macs:
                raise ValueError(f"{graph.file} must have the macs of length {buckets[-1]}")
            if not buckets and any(LENGTH in tensor.shape for tensor in graph.outputs):
                raise ValueError(f"{graph.file} has a length, but the model takes no texts")
        return self


def version_of(directory_name: str) -> int | None:
    """The version a directory is named for, or None."""
    return int(directory_name) if re.fullmatch(r"[1-9][0-9]{0,8}", directory_name) else None
