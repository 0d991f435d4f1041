"""A network for texts as nodes in order, for any batch and any length.

Every segment is handed the hidden state and the attention mask. What is computed from the mask or
from sizes alone is cheap, and computed anew in each segment, so that little has to cross a cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from training.attaching.errors import AttachError
from training.attaching.program import Program, folded, needed, watched
from training.attaching.read import Network
from training.attaching.reading import IDS, INPUTS, MASK, Reading
from training.attaching.rewriting import LOGITS

OBSERVED = ((1, 6), (2, 6), (3, 6), (2, 10))
"""Batches and lengths at which every tensor is looked at."""
MAX_AXES = 3
"""Of tensors that may cross a cut: hidden states, or vectors."""


@dataclass(frozen=True)
class Size:
    """One axis: `factor`, times the batch, times the length."""

    factor: int
    has_batch: bool
    has_length: bool

    def of(self, batch: int, length: int) -> int:
        return self.factor * (batch if self.has_batch else 1) * (length if self.has_length else 1)


Sizes = dict[str, tuple[Size, ...]]


def text_program(network: Network, vocabulary: int, lengths: tuple[int, ...]) -> Program:
    """Reads sizes by running the network; raises AttachError where it cannot be cut."""
    reading = network.preprocessing
    assert isinstance(reading, Reading)
    model = folded(network.model)
    seen = [run(model, reading, vocabulary, *sizes) for sizes in OBSERVED]
    run(model, reading, vocabulary, 1, lengths[-1])
    changed = run(model, reading, vocabulary, *OBSERVED[0], last=1)
    sizes = sizes_of(seen)
    nodes, constants = with_sizes_from_mask(model, sizes)
    from_mask, made = [], {MASK, *constants}
    for node in nodes:
        if {name for name in node.input if name} <= made:
            from_mask.append(node)
            made.update(node.output)
    rest = [node for node in nodes if node not in from_mask]
    features = frozenset(n for n, found in sizes.items() if is_feature(found, seen[0][n]))
    if LOGITS not in features:
        raise AttachError("the network does not give one row of scores for every text")
    kept = tuple(needed(rest, made))
    states = [name for name in features if len(sizes[name]) == MAX_AXES]
    used = {name for node in (*kept, *from_mask) for name in node.input}
    shapes = {n: tuple(s.of(1, lengths[-1]) for s in found) for n, found in sizes.items()}
    return Program(
        nodes=kept,
        constants={name: weight for name, weight in constants.items() if name in used},
        shapes=shapes | dict.fromkeys(reading.inputs, (1, lengths[-1])),
        features=features,
        follows={},
        opsets=tuple(model.opset_import),
        ir_version=model.ir_version,
        inputs=reading.inputs,
        lengths=lengths,
        spans={name: tuple(size.has_length for size in found) for name, found in sizes.items()}
        | dict.fromkeys(reading.inputs, (False, True)),
        from_mask=tuple(from_mask),
        is_causal=all(np.array_equal(seen[0][n][:, 0], changed[n][:, 0]) for n in states),
    )


def run(
    model: ModelProto, reading: Reading, vocabulary: int, batch: int, length: int, last: int = 0
) -> dict[str, NDArray[np.generic]]:
    """Every tensor that the network computes from random texts without padding.

    The last token of each text is another with another `last`.
    """
    ids = np.random.default_rng(0).integers(0, vocabulary, (batch, length))
    ids[:, -1] = (ids[:, -1] + last) % vocabulary
    arrays: dict[str, NDArray[Any]] = {IDS: ids, MASK: np.ones_like(ids)}
    inputs = {name: arrays.get(name, np.zeros_like(ids)) for name in reading.inputs}
    hint = f"{batch} texts of {length} tokens; a shorter limit is set with --max-tokens"
    return watched(model, inputs, hint)


def sizes_of(seen: Sequence[dict[str, NDArray[np.generic]]]) -> Sizes:
    """Of every tensor whose axes all follow from batch and length."""
    found = {}
    for name in seen[0]:
        shapes = [arrays[name].shape for arrays in seen]
        if len({len(shape) for shape in shapes}) == 1:
            sizes = [size_of(axis) for axis in zip(*shapes, strict=True)]
            if all(size is not None for size in sizes):
                found[name] = tuple(size for size in sizes if size is not None)
    return found


def size_of(axis: Sequence[int]) -> Size | None:
    """The rule that gives all of an axis's observed sizes."""
    batch, length = OBSERVED[0]
    for has_batch, has_length in ((False, False), (True, False), (False, True), (True, True)):
        whole = (batch if has_batch else 1) * (length if has_length else 1)
        size = Size(axis[0] // whole, has_batch, has_length)
        if all(size.of(*given) == n for given, n in zip(OBSERVED, axis, strict=True)):
            return size
    return None


def is_feature(sizes: tuple[Size, ...], array: NDArray[np.generic]) -> bool:
    """Whether a tensor can be handed on: float32, (batch, numbers) or (batch, length, numbers)."""
    if array.dtype != np.float32 or not 2 <= len(sizes) <= MAX_AXES:
        return False
    *axes, numbers = sizes
    batch, length = (
        Size(1, has_batch=True, has_length=False),
        Size(1, has_batch=False, has_length=True),
    )
    is_fixed = not numbers.has_batch and not numbers.has_length
    return is_fixed and axes in ([batch], [batch, length])


def with_sizes_from_mask(
    model: ModelProto, sizes: Sizes
) -> tuple[list[NodeProto], dict[str, TensorProto]]:
    """The nodes, with every `Shape` read off the mask, and all constants."""
    constants = {weight.name: weight for weight in model.graph.initializer}
    for place, name in enumerate(("batch", "length")):
        constants[f"sizes/{name}/axis"] = numpy_helper.from_array(np.array([place]))
    nodes = [helper.make_node("Shape", [MASK], ["sizes/mask"])]
    nodes += [
        helper.make_node("Gather", ["sizes/mask", f"sizes/{name}/axis"], [f"sizes/{name}"])
        for name in ("batch", "length")
    ]
    for node in model.graph.node:
        if node.op_type != "Shape" or node.input[0] in (*INPUTS, *constants):
            nodes.append(with_mask_for_tokens(node))
            continue
        if node.input[0] not in sizes:
            raise AttachError(f"the sizes of {node.input[0]} do not follow from the text's length")
        nodes += shape_nodes(node, sizes[node.input[0]], constants)
    for name, weight in constants.items():
        weight.name = name
    return nodes, constants


def with_mask_for_tokens(node: NodeProto) -> NodeProto:
    """All inputs have one shape: it can be read off the mask."""
    if node.op_type != "Shape" or node.input[0] not in INPUTS:
        return node
    changed = NodeProto()
    changed.CopyFrom(node)
    changed.input[0] = MASK
    return changed


def shape_nodes(
    node: NodeProto, sizes: tuple[Size, ...], constants: dict[str, TensorProto]
) -> list[NodeProto]:
    """Nodes that compute what a `Shape` gives, without the tensor it is the shape of."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    wanted = sizes[given.get("start", 0) : given.get("end", len(sizes))]
    name = node.output[0]
    nodes, parts = [], []
    for place, size in enumerate(wanted):
        part = f"sizes/{name}/{place}"
        constants[part] = numpy_helper.from_array(np.array([size.factor]))
        for what, is_in in (("batch", size.has_batch), ("length", size.has_length)):
            if is_in:
                nodes.append(helper.make_node("Mul", [part, f"sizes/{what}"], [f"{part}/{what}"]))
                part = f"{part}/{what}"
        parts.append(part)
    return [*nodes, helper.make_node("Concat", parts, [name], axis=0)]
