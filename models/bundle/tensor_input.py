"""What a model of numbers takes, as its manifest says it."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.bundle.records import BATCH, DType, Graph, Record, Tensor


class RowTensor(Record):
    """One named part of a row; `shape` is without the batch.

    `span` is the smallest and the largest value that an integer may have. It is needed where the
    graph looks something up by it: a value beyond would fail for all rows of its batch.
    """

    name: Annotated[str, Field(min_length=1)]
    dtype: DType
    shape: tuple[PositiveInt, ...]
    span: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _span_is_sound(self) -> Self:
        if self.span is not None:
            if "int" not in self.dtype:
                raise ValueError(f"{self.dtype} has no span")
            if self.span[0] > self.span[1]:
                raise ValueError("span must rise")
        return self


class TensorInput(Record):
    """Rows of numbers: one named tensor of fixed shape or several."""

    kind: Literal["tensor"] = "tensor"
    tensors: tuple[RowTensor, ...] = Field(min_length=1)

    @property
    def length_buckets(self) -> tuple[int, ...]:
        return ()

    @property
    def least(self) -> dict[str, int]:
        """The smallest value of each tensor with a span, by its name."""
        return {part.name: part.span[0] for part in self.tensors if part.span is not None}

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({tensor.name for tensor in self.tensors}) < len(self.tensors):
            raise ValueError("tensors must have different names")
        return self

    def tensors_of(self, _: Graph) -> tuple[Tensor, ...]:
        """What segment 1 has to take."""
        return tuple(
            Tensor(name=part.name, dtype=part.dtype, shape=(BATCH, *part.shape))
            for part in self.tensors
        )
