"""Any ONNX classifier as one that takes uint8 images, or token numbers, and gives logits."""

import json
from ast import literal_eval
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
from onnx import ModelProto, TensorProto, ValueInfoProto

from models.bundle.image_input import Resize
from training.attaching.errors import AttachError
from training.attaching.preprocessing import (
    DEFAULT_SIZE,
    IMAGES,
    Preprocessing,
    normalisation,
)
from training.attaching.reading import Reading, reading_of, reads_texts
from training.attaching.rewriting import (
    LOGITS,
    end_in_logits,
    half_to_float,
    padding_from_mask,
    rename,
    take_images,
    take_texts,
)
from training.data.errors import listed

OLDEST_OPSET = 11
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
MAX_BYTES = 2**31 - 1
"""What one protobuf message holds."""
FOR_IMAGES = ("size", "resize", "mean", "std", "channels_first")
FOR_TEXTS = ("tokenizer", "max_tokens")


@dataclass(frozen=True)
class Options:
    """What a person says of a network; None where its file or the usual will do."""

    size: int | None = None
    resize: Resize = "squash"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels_first: bool | None = None
    tokenizer: Path | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class Network:
    """A classifier with the preparation of images in front and without a softmax at its end.

    `original` is the file as it was, its external data inside; `fixed_batch` is the batch that it
    was exported for, or None; `output` the name of its scores. It `is_coarse` where it computes in
    float16 or in 8 bits. `padding` is the token by which a network for texts finds where one ends.
    """

    original: ModelProto
    model: ModelProto
    preprocessing: Preprocessing | Reading
    fixed_batch: int | None
    is_coarse: bool
    output: str
    gives_probabilities: bool
    padding: int | None = None


def read(path: Path, options: Options) -> Network:
    """Reads a network; raises AttachError where it is none that exits can be put on."""
    original = load(path)
    model = ModelProto()
    model.CopyFrom(original)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    check(model, path)
    is_coarse = half_to_float(model) or any(n.op_type == "QuantizeLinear" for n in model.graph.node)
    names = {name: f"{name}/inside" for name in (IMAGES, LOGITS)}
    rename(model, names)
    preprocessing: Preprocessing | Reading
    fixed_batch = padding = None
    if reads_texts(inputs_of(model)):
        refuse_given(options, FOR_IMAGES, f"{path} takes texts")
        preprocessing = reading_of(inputs_of(model), options.tokenizer, options.max_tokens, path)
        output, gives_probabilities = end_in_logits(model, path)
        take_texts(model, preprocessing)
        padding = padding_from_mask(model)
    else:
        image = image_input(model, path)
        refuse_given(options, FOR_TEXTS, f"{path} takes images")
        preprocessing = preprocessing_of(image, options, path)
        fixed_batch = max(0, image.type.tensor_type.shape.dim[0].dim_value) or None
        output, gives_probabilities = end_in_logits(model, path)
        take_images(model, image, preprocessing, fixed_batch)
    del model.graph.value_info[:]
    return Network(
        original,
        model,
        preprocessing,
        fixed_batch,
        is_coarse,
        next((old for old, new in names.items() if new == output), output),
        gives_probabilities,
        padding,
    )


def refuse_given(options: Options, names: Sequence[str], reason: str) -> None:
    """Raises AttachError where an option is given that would change nothing."""
    usual = Options()
    given = [name for name in names if getattr(options, name) != getattr(usual, name)]
    if given:
        shown = listed(f"--{name.replace('_', '-')}" for name in given)
        raise AttachError(f"{reason}: leave out {shown}")


def load(path: Path) -> ModelProto:
    if not path.is_file():
        raise AttachError(f"there is no file {path}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and onnx's errors have no common base
        raise AttachError(f"{path} is no ONNX model, or its data are missing: {error}") from error
    if not model.graph.node:
        raise AttachError(f"{path} is no ONNX model, or an empty one")
    if model.ByteSize() > MAX_BYTES:
        raise AttachError(f"{path} is larger than the 2 GB that one graph can have")
    return model


def check(model: ModelProto, path: Path) -> None:
    opset = next((x.version for x in model.opset_import if x.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise AttachError(f"{path} has opset {opset}; export it with {OLDEST_OPSET} or later")
    for node in model.graph.node:
        if any(
            a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for a in node.attribute
        ):
            raise AttachError(f"{path} has control flow ({node.op_type}), which cannot be cut")


def inputs_of(model: ModelProto) -> list[ValueInfoProto]:
    """The inputs that are not weights."""
    weights = {weight.name for weight in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def image_input(model: ModelProto, path: Path) -> ValueInfoProto:
    """The one input, if it takes images."""
    inputs = inputs_of(model)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise AttachError(f"{path} must have one input, an image; it has {names}")
    (image,) = inputs
    tensor = image.type.tensor_type
    if tensor.elem_type not in (*FLOATS, TensorProto.UINT8) or len(tensor.shape.dim) != 4:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise AttachError(
            f"{path} takes {kind} of {len(tensor.shape.dim)} dimensions as {image.name}; "
            "images are float or uint8, of four dimensions"
        )
    return image


def preprocessing_of(image: ValueInfoProto, options: Options, path: Path) -> Preprocessing:
    """Size, layout and normalisation from the input's shape and what the person says."""
    tensor = image.type.tensor_type
    dims = [max(0, dim.dim_value) for dim in tensor.shape.dim]  # some write -1 for any size
    is_first, is_last = dims[1] in (1, 3), dims[3] in (1, 3)
    channels_first = options.channels_first
    if channels_first is None:
        channels_first = is_first or not is_last
    channels = dims[1] if channels_first else dims[3]
    if channels not in (0, 1, 3):
        raise AttachError(f"{path} takes images of {channels} channels; 1 and 3 can be served")
    height, width = dims[2:] if channels_first else dims[1:3]
    for given in (height, width):
        if given and options.size and given != options.size:
            raise AttachError(f"{path} takes {height} x {width} pixels, not {options.size}")
    is_raw = tensor.elem_type == TensorProto.UINT8
    if is_raw:
        refuse_given(options, ("mean", "std"), f"{path} takes pixels as they are, uint8")
    size = options.size or DEFAULT_SIZE
    channels = channels or 3
    mean, std = normalisation(options.mean, options.std, channels, channels_first=channels_first)
    return Preprocessing(
        height=height or size,
        width=width or size,
        channels=channels,
        channels_first=channels_first,
        resize=options.resize,
        mean=mean,
        std=std,
        is_raw=is_raw,
    )


def metadata_labels(model: ModelProto, path: Path) -> tuple[str, ...] | None:
    """Labels from the metadata entry `labels`, `names` or `classes`; None where there is none."""
    for entry in model.metadata_props:
        if entry.key in ("labels", "names", "classes"):
            return parsed_labels(entry.value, f"{entry.key!r} in the metadata of {path}")
    return None


def text_of(path: Path) -> str:
    """A file's text, without the mark that some editors put before it; raises AttachError."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AttachError(f"{path} is no text in UTF-8") from error


def parsed_labels(text: str, title: str) -> tuple[str, ...]:
    """Labels in the order of the network's scores; raises AttachError where `text` has no order.

    They are on lines of their own, or between commas, or a list, {index: label} or {label: index}
    as JSON or as Python writes it.
    """
    text = text.strip()
    if not text.startswith(("[", "{")):
        return tuple(label.strip() for label in text.split("\n" if "\n" in text else ","))
    for parsed in (json.loads, literal_eval):
        with suppress(ValueError, SyntaxError, TypeError, LookupError):
            return in_order(parsed(text))
    raise AttachError(
        f"{title} is no list of labels, and neither {{index: label}} nor {{label: index}} with "
        "every index from 0"
    )


def in_order(found: Any) -> tuple[str, ...]:  # noqa: ANN401
    """The labels of a list or dict; raises ValueError, TypeError or LookupError for any other."""
    if isinstance(found, dict):
        indices = range(len(found))
        if set(found.values()) == set(indices):
            found = {index: label for label, index in found.items()}
        labels = {int(index): label for index, label in found.items()}
        found = [labels[index] for index in indices]
    if not isinstance(found, list) or not all(isinstance(x, str | int | float) for x in found):
        raise TypeError("labels are a list of texts or numbers")
    return tuple(map(str, found))
