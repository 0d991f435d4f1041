"""What is changed in a network's graph when it is read: its names, numbers, inputs and output."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from training.attaching.errors import AttachError
from training.attaching.preprocessing import IMAGES, Preprocessing
from training.attaching.reading import IDS, LENGTH, MASK, Reading

LOGITS = "logits"
BATCH = "batch"
SAME_NUMBERS = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
"""Operators that give the numbers they take, in another type or shape."""


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
    last = maker_of(makers, output)
    gives_probabilities = last is not None and last.op_type == "Softmax"
    source = last.input[0] if last is not None and gives_probabilities else output
    graph.node.append(helper.make_node("Flatten", [source], [LOGITS], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH, None]))
    return output, gives_probabilities


def maker_of(makers: dict[str, NodeProto], name: str) -> NodeProto | None:
    """The node that computes a tensor's numbers."""
    node = makers.get(name)
    while node is not None and node.op_type in SAME_NUMBERS:
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


def padding_from_mask(model: ModelProto) -> int | None:
    """Finds the end of a text by its mask where a network looks for padding's token.

    Classifiers of causal networks do: they read the last token. Returns padding's token.
    """
    graph = model.graph
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        others = [name for name in node.input if name in constants]
        if node.op_type != "Equal" or IDS not in node.input or not others:
            continue
        token = numpy_helper.to_array(constants[others[0]])
        if token.size == 1 and leads_to_a_place(graph.node, node.output[0]):
            graph.initializer.append(numpy_helper.from_array(np.array(0), "mask/padding"))
            node.input[:] = [MASK, "mask/padding"]
            return int(token.item())
    return None


def leads_to_a_place(nodes: Iterable[NodeProto], name: str) -> bool:
    """Whether an ArgMax takes a tensor, perhaps times the places that there are."""
    names = {name}
    for node in nodes:
        if names.intersection(node.input):
            if node.op_type == "ArgMax":
                return True
            if node.op_type in ("Not", "Cast", "Mul"):
                names.update(node.output)
    return False


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
