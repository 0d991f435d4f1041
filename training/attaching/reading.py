"""How a network takes texts: its inputs by name, and the tokenizer it was trained with."""

from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto, ValueInfoProto

from training.attaching.errors import AttachError

IDS, MASK = "input_ids", "attention_mask"
INPUTS = (IDS, MASK, "token_type_ids")
LENGTH = "length"


@dataclass(frozen=True)
class Reading:
    """`inputs` are the names of the network's inputs, in the order of the manifest."""

    inputs: tuple[str, ...]
    tokenizer: Path
    max_tokens: int | None = None

    def __str__(self) -> str:
        return f"texts as {', '.join(self.inputs)}, tokenizer {self.tokenizer}"


def reads_texts(inputs: list[ValueInfoProto]) -> bool:
    return IDS in {value.name for value in inputs}


def reading_of(
    inputs: list[ValueInfoProto], tokenizer: Path | None, max_tokens: int | None, path: Path
) -> Reading:
    """Raises AttachError for inputs that cannot be served, and where no tokenizer is found."""
    names = {value.name for value in inputs}
    if not {IDS, MASK} <= names <= set(INPUTS):
        raise AttachError(
            f"{path} takes {', '.join(sorted(names))}; a network for texts takes "
            f"{', '.join(INPUTS)}, or the first two"
        )
    for value in inputs:
        tensor = value.type.tensor_type
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        if kind != "int64" or len(tensor.shape.dim) != 2:
            raise AttachError(
                f"{path} takes {value.name} as {kind}; it must be int64, (batch, length)"
            )
        if any(dim.dim_value for dim in tensor.shape.dim):
            raise AttachError(f"{path} has a fixed batch or length; export it with dynamic axes")
    file = tokenizer or path.parent / "tokenizer.json"
    if not file.is_file():
        raise AttachError(f"there is no {file}; name the network's tokenizer: --tokenizer FILE")
    return Reading(tuple(name for name in INPUTS if name in names), file, max_tokens)
