"""What the JSON files of a bundle are made of: strict records, files, graphs and their tensors.

All are strict: an unknown key or a value of the wrong type is an error. Exits are numbered from 1.

In the shape of a graph's tensor -1 is the batch: it comes first, and nowhere else. -2 is a size
that goes with the length bucket: only graphs of text models have it, in any place but the first.
All rows of a batch are of one bucket.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

SCHEMA_VERSION: Literal[1] = 1

BATCH, LENGTH = -1, -2
"""Sizes in a shape that are not fixed: of the batch, and what goes with the length bucket."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+\.(onnx|json)$")]
Probability = Annotated[float, Field(ge=0, le=1)]
DType = Literal["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"]


class Record(BaseModel):
    """A frozen record that refuses unknown keys and converts nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class File(Record):
    """A file beside the manifest; its name can never lead out of the bundle's directory."""

    file: FileName
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Tensor(Record):
    """A graph's input or output; -1 in a shape is the batch, -2 goes with the length bucket."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


class Graph(File):
    """One ONNX graph. `macs` are for one row, of a text for one of the largest length bucket.

    `macs_by_length` has them for every length bucket, and nothing where there are no buckets.
    """

    exit: PositiveInt
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    macs: int = Field(ge=0)
    parameters: int = Field(ge=0)
    macs_by_length: dict[PositiveInt, Annotated[int, Field(ge=0)]] = {}

    def macs_of(self, length: int) -> int:
        """For one row of a length bucket; of length 0 where all rows have one size."""
        return self.macs_by_length.get(length, self.macs)


def shapes(tensors: tuple[Tensor, ...]) -> str:
    """Tensors as a person reads them."""
    return ", ".join(f"{t.name}: {t.dtype} {list(t.shape)}" for t in tensors)
