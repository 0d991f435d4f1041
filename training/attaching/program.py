"""A network as nodes in order, with the shape of every tensor, for any batch."""

import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from models.bundle.defaults import CPU
from training.attaching.any_batch import free_batch, without_images
from training.attaching.errors import AttachError
from training.attaching.preprocessing import IMAGES, Preprocessing
from training.attaching.read import Network
from training.attaching.reading import MASK
from training.attaching.rewriting import LOGITS

BATCHES = (1, 2, 3)
"""Batches at which every tensor is looked at; the third checks what the first two say."""
ORT_FATAL = 4  # onnxruntime's log level that leaves out errors: here they are raised, and said

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Follows:
    """Integers that follow from the batch alone: `base` + `slope` x batch."""

    base: NDArray[np.int64]
    slope: NDArray[np.int64]


@dataclass(frozen=True)
class Program:
    """Nodes in topological order from `inputs` to `LOGITS`.

    `shapes` are for a batch of one. `features` are the tensors that can be handed from segment to
    segment: float32, (batch, ...). What `follows` from the batch is computed anew in each segment.

    Of texts, `lengths` are the length buckets, and `shapes` those at the largest. `spans` says for
    each axis of a tensor whether it goes with the length. What is computed `from_mask` alone is
    computed anew in each segment; the mask goes along. A network `is_causal` where tokens see only
    those before them.
    """

    nodes: tuple[NodeProto, ...]
    constants: dict[str, TensorProto]
    shapes: dict[str, Shape]
    features: frozenset[str]
    follows: dict[str, Follows]
    opsets: tuple[onnx.OperatorSetIdProto, ...]
    ir_version: int
    inputs: tuple[str, ...] = (IMAGES,)
    lengths: tuple[int, ...] = ()
    spans: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    from_mask: tuple[NodeProto, ...] = ()
    is_causal: bool = False

    @property
    def is_of_texts(self) -> bool:
        return bool(self.lengths)

    @property
    def known(self) -> set[str]:
        """What every segment has without being handed it."""
        made = {name for node in self.from_mask for name in node.output}
        return {*self.constants, *self.follows, *made, *([MASK] if self.is_of_texts else [])}

    def at(self, length: int) -> "Program":
        """The same program for texts of another length."""
        shapes = {
            name: tuple(
                size * length // self.lengths[-1] if goes_along else size
                for size, goes_along in zip(shape, self.spans[name], strict=True)
            )
            for name, shape in self.shapes.items()
        }
        return replace(self, shapes=shapes)


def program(network: Network) -> Program:
    """Reads the network's shapes by running it; raises AttachError where a batch cannot run."""
    if network.fixed_batch is not None:
        computed = watched(without_images(network.model), {}, "without images")
        free_batch(network.model, computed)
    model = folded(network.model)
    seen = [observed(model, batch) for batch in BATCHES]
    constants = {weight.name: weight for weight in model.graph.initializer}
    preprocessing = network.preprocessing
    assert isinstance(preprocessing, Preprocessing)
    size = preprocessing.height, preprocessing.width, preprocessing.channels
    shapes: dict[str, Shape] = {IMAGES: (1, *size)}
    shapes |= {name: array.shape for name, array in seen[0].items()}
    follows = batch_values(model, constants, seen)
    known = {*constants, *follows}
    nodes = tuple(late(needed(model.graph.node, known), known))
    features = frozenset(
        name
        for name, shape in shapes.items()
        if name != IMAGES
        and seen[0][name].dtype == np.float32
        and len(shape) > 1
        and all(s[name].shape == (b, *shape[1:]) for s, b in zip(seen, BATCHES, strict=True))
    )
    if LOGITS not in features:
        raise AttachError("the network does not give one row of scores for every image")
    used = {name for node in nodes for name in node.input}
    return Program(
        nodes=nodes,
        constants={name: weight for name, weight in constants.items() if name in used},
        shapes=shapes,
        features=features,
        follows={name: value for name, value in follows.items() if name in used},
        opsets=tuple(model.opset_import),
        ir_version=model.ir_version,
    )


def folded(model: ModelProto) -> ModelProto:
    """The same network with its constants computed and batch normalisation folded away."""
    options = session_options(ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "folded.onnx"
        options.optimized_model_filepath = str(made)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=[CPU])
        except Exception as error:  # onnxruntime's errors have no common base
            raise AttachError(f"onnxruntime cannot run the network: {error}") from error
        found = onnx.load(made)
    del found.graph.value_info[:]
    return found


def session_options(level: ort.GraphOptimizationLevel) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = ORT_FATAL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return options


def observed(model: ModelProto, batch: int) -> dict[str, NDArray[np.generic]]:
    """Every tensor that the network computes from random images."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(0).integers(0, 256, (batch, *shape[1:]), dtype=np.uint8)
    return watched(model, {IMAGES: images}, f"a batch of {batch}; export it with a dynamic batch")


def watched(
    model: ModelProto, inputs: dict[str, NDArray[Any]], what: str
) -> dict[str, NDArray[np.generic]]:
    """Every tensor that the network computes; raises AttachError saying `what` it cannot run."""
    watched = ModelProto()
    watched.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    if not names:
        return {}
    del watched.graph.output[:]
    watched.graph.output.extend(ValueInfoProto(name=name) for name in names)
    options = session_options(ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    try:
        session = ort.InferenceSession(watched.SerializeToString(), options, providers=[CPU])
        arrays = session.run(names, inputs)
    except Exception as error:  # onnxruntime's errors have no common base
        raise AttachError(f"the network cannot run {what}: {str(error).splitlines()[0]}") from error
    pairs = zip(names, arrays, strict=True)
    return {name: array for name, array in pairs if isinstance(array, np.ndarray)}


def batch_values(
    model: ModelProto,
    constants: dict[str, TensorProto],
    seen: Sequence[dict[str, NDArray[np.generic]]],
) -> dict[str, Follows]:
    """What is computed from shapes alone: integers that follow from the batch.

    Such a tensor that has the same value in every batch becomes a constant.
    """
    from_shapes: set[str] = set()
    follows: dict[str, Follows] = {}
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        is_known = bool(inputs) and all(n in constants or n in from_shapes for n in inputs)
        if node.op_type == "DequantizeLinear":
            continue  # kernels for 8 bits want to see it beside the numbers
        if node.op_type not in ("Shape", "Size") and not is_known:
            continue
        from_shapes.update(node.output)
        for name in node.output:
            arrays = [values[name] for values in seen]
            if len({array.shape for array in arrays}) > 1:
                continue
            if all(np.array_equal(array, arrays[0]) for array in arrays):
                constants[name] = numpy_helper.from_array(arrays[0], name)
            elif all(array.dtype == np.int64 for array in arrays):
                first, second, third = (array.astype(np.int64) for array in arrays)
                if np.array_equal(third - second, second - first):
                    follows[name] = Follows(2 * first - second, second - first)
    return follows


def needed(nodes: Sequence[NodeProto], known: set[str]) -> Iterator[NodeProto]:
    """The nodes that the logits are computed with, in order, where `known` tensors are given."""
    wanted = {LOGITS}
    kept = []
    for node in reversed(nodes):
        if wanted.intersection(node.output) - known:
            kept.append(node)
            wanted.update(node.input)
    return reversed(kept)


def late(nodes: Iterable[NodeProto], known: Container[str]) -> list[NodeProto]:
    """The nodes in another order: one that takes what is known alone comes before its first reader.

    onnxruntime writes such nodes first, so that what they make would cross every place.
    """
    waiting: dict[str, NodeProto] = {}
    placed: list[NodeProto] = []

    def fetch(names: Iterable[str]) -> None:
        for name in names:
            if (node := waiting.get(name)) is not None:
                for made in node.output:
                    del waiting[made]
                fetch(node.input)
                placed.append(node)

    from_known: set[str] = set()
    for node in nodes:
        if all(not name or name in known or name in from_known for name in node.input):
            from_known.update(node.output)
            waiting |= dict.fromkeys(node.output, node)
        else:
            fetch(node.input)
            placed.append(node)
    fetch(list(waiting))
    return placed
