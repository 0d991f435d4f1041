"""Any ONNX classifier as one that takes uint8 images, or token numbers, and gives logits."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from models.bundle.image_input import Resize
from training.attaching.errors import AttachError
from training.attaching.preprocessing import (
    DEFAULT_SIZE,
    IMAGES,
    Preprocessing,
    normalisation,
)
from training.attaching.reading import LENGTH, Reading, reading_of, reads_texts

OLDEST_OPSET = 11
LOGITS = "logits"
BATCH = "batch"
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
MAX_BYTES = 2**31 - 1
"""What one protobuf message holds."""


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
    was exported for, or None; `output` the name of its scores. `labels` are those that its metadata
    name.
    """

    original: ModelProto
    model: ModelProto
    preprocessing: Preprocessing | Reading
    fixed_batch: int | None
    is_half: bool
    output: str
    gives_probabilities: bool
    labels: tuple[str, ...] | None


def read(path: Path, options: Options) -> Network:
    """Reads a network; raises AttachError where it is none that exits can be put on."""
    original = load(path)
    model = ModelProto()
    model.CopyFrom(original)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    check(model, path)
    is_half = half_to_float(model)
    names = {name: f"{name}/inside" for name in (IMAGES, LOGITS)}
    rename(model, names)
    preprocessing: Preprocessing | Reading
    fixed_batch = None
    if reads_texts(inputs_of(model)):
        preprocessing = reading_of(inputs_of(model), options.tokenizer, options.max_tokens, path)
        output, gives_probabilities = end_in_logits(model, path)
        take_texts(model, preprocessing)
    else:
        image = image_input(model, path)
        preprocessing = preprocessing_of(image, options, path)
        fixed_batch = image.type.tensor_type.shape.dim[0].dim_value or None
        output, gives_probabilities = end_in_logits(model, path)
        take_images(model, image, preprocessing, fixed_batch)
    del model.graph.value_info[:]
    return Network(
        original,
        model,
        preprocessing,
        fixed_batch,
        is_half,
        next((old for old, new in names.items() if new == output), output),
        gives_probabilities,
        metadata_labels(original),
    )


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


def rename(model: ModelProto, names: dict[str, str]) -> None:
    """Gives tensors other names, so that theirs are free."""
    graph = model.graph
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for weight in graph.initializer:
        weight.name = names.get(weight.name, weight.name)


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
    dims = [dim.dim_value for dim in tensor.shape.dim]
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
        is_raw=tensor.elem_type == TensorProto.UINT8,
    )


def end_in_logits(model: ModelProto, path: Path) -> tuple[str, bool]:
    """Leaves one output, `LOGITS`; returns the old one's name and whether it was a softmax's.

    The softmax is taken off: that of the logits gives the same probabilities.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    scores = [v for v in graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    if len(scores) != 1:
        names = ", ".join(value.name for value in graph.output)
        raise AttachError(f"{path} must have one output, logits or probabilities; it has {names}")
    output = scores[0].name
    last = behind_copies(makers, output)
    gives_probabilities = last is not None and last.op_type == "Softmax"
    source = last.input[0] if last is not None and gives_probabilities else output
    graph.node.append(helper.make_node("Flatten", [source], [LOGITS], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH, None]))
    return output, gives_probabilities


def behind_copies(makers: dict[str, NodeProto], name: str) -> NodeProto | None:
    """The node that computes a tensor, behind those that only pass it on."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = makers.get(node.input[0])
    return node


def take_images(
    model: ModelProto, image: ValueInfoProto, preprocessing: Preprocessing, batch: int | None
) -> None:
    """Puts the preparation of images in front, in place of the network's own input."""
    graph = model.graph
    nodes, constants = preprocessing.nodes(image.name)
    graph.initializer.extend(constants)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    del graph.input[:]
    shape = [batch or BATCH, preprocessing.height, preprocessing.width, preprocessing.channels]
    graph.input.append(helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, shape))


def take_texts(model: ModelProto, reading: Reading) -> None:
    """Gives the inputs the manifest's order, and names to the axes that are free."""
    del model.graph.input[:]
    model.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.INT64, [BATCH, LENGTH])
        for name in reading.inputs
    )


def half_to_float(model: ModelProto) -> bool:
    """Turns float16 into float32: nothing is lost, and CPUs are faster. Says if there was any."""
    graph = model.graph
    changed = False
    tensors = [*graph.initializer]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            is_type = (node.op_type, attribute.name) in (("Cast", "to"), ("EyeLike", "dtype"))
            if is_type and attribute.i == TensorProto.FLOAT16:
                attribute.i, changed = TensorProto.FLOAT, True
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            changed = True
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type, changed = TensorProto.FLOAT, True
    return changed


def metadata_labels(model: ModelProto) -> tuple[str, ...] | None:
    """Labels from the metadata entry `labels` or `names`: JSON, or separated by commas or lines."""
    for entry in model.metadata_props:
        if entry.key in ("labels", "names", "classes"):
            return parsed_labels(entry.value)
    return None


def parsed_labels(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        separator = "\n" if "\n" in text.strip() else ","
        return tuple(label.strip() for label in text.strip().split(separator))
    return tuple(map(str, found.values() if isinstance(found, dict) else found))
