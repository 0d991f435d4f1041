"""What a model of texts takes, as its manifest says it."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.bundle.records import BATCH, LENGTH, File, Graph, Record, Tensor

TokenTensor = Literal["input_ids", "attention_mask", "token_type_ids"]


class TextInput(Record):
    """Texts, as token ids.

    `tokenizer` is a `tokenizer.json` of Hugging Face `tokenizers`: normalisation, special tokens,
    the padding's token and side, the side that is cut. `models/bundle/text.py` reads it. `example`
    is a text that the model is made for.
    """

    kind: Literal["text"] = "text"
    tokenizer: File
    length_buckets: tuple[PositiveInt, ...] = Field(min_length=1)
    inputs: tuple[TokenTensor, ...] = ("input_ids", "attention_mask")
    example: Annotated[str, Field(min_length=1)] = "Hello, how are you?"

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if list(self.length_buckets) != sorted(set(self.length_buckets)):
            raise ValueError("length_buckets must rise")
        if len(set(self.inputs)) < len(self.inputs) or "input_ids" not in self.inputs:
            raise ValueError("inputs must have input_ids, and nothing twice")
        return self

    @property
    def least(self) -> dict[str, int]:
        return {}

    def tensors_of(self, _: Graph) -> tuple[Tensor, ...]:
        """What segment 1 has to take."""
        return tuple(Tensor(name=n, dtype="int64", shape=(BATCH, LENGTH)) for n in self.inputs)
