"""Parts of a network as graphs of their own, and what each takes and costs."""

from collections.abc import Sequence
from math import prod
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from models.bundle.bundle import sha256
from models.bundle.records import BATCH as BATCH_SIZE
from models.bundle.records import LENGTH as LENGTH_SIZE
from models.bundle.records import Graph
from models.bundle.records import Tensor as TensorSpec
from training.attaching.preprocessing import IMAGES
from training.attaching.program import Program
from training.attaching.reading import LENGTH, MASK
from training.attaching.rewriting import BATCH
from training.exporting.graphs import ExportedGraph, drop_notes

CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Which input of a convolution is its weight."""
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "QLinearMatMul")
RECURRENCES = ("LSTM", "GRU", "RNN")
OLDEST_IR = 4
"""The first that lets weights be no inputs."""
ELEMENTS = {
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}


def fragment(
    program: Program,
    start: int,
    stop: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    file: str,
    exit: int,
) -> ExportedGraph:
    """Nodes `start` to `stop` as a graph from `inputs` to `outputs`, with its manifest entry."""
    own = program.nodes[start:stop]
    nodes, inputs = with_mask(program, own, inputs, outputs)
    used = {name for node in nodes for name in node.input}
    constants = [weight for name, weight in program.constants.items() if name in used]
    prelude, extra = batch_nodes(program, sorted(used & set(program.follows)), inputs[0])
    graph = helper.make_graph(
        [*prelude, *nodes],
        file.removesuffix(".onnx"),
        [described(program, name) for name in inputs],
        [described(program, name) for name in outputs],
        [*constants, *extra],
    )
    return exported(
        helper.make_model(
            graph, opset_imports=program.opsets, ir_version=max(program.ir_version, OLDEST_IR)
        ),
        file=file,
        exit=exit,
        inputs=[spec(program, name) for name in inputs],
        outputs=[spec(program, name) for name in outputs],
        macs=sum(macs(program, node) for node in own),
        macs_by_length={
            length: sum(macs(at, node) for node in own)
            for length, at in ((length, program.at(length)) for length in program.lengths)
        },
    )


def with_mask(
    program: Program, nodes: Sequence[NodeProto], inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[list[NodeProto], Sequence[str]]:
    """The nodes, with what they need of the mask before them, and the inputs that are needed.

    The mask has a name of its own in every segment; one that is not needed is not taken.
    """
    if not program.is_of_texts:
        return list(nodes), inputs
    wanted = {name for node in nodes for name in node.input}
    before: list[NodeProto] = []
    for node in reversed(program.from_mask):
        if wanted.intersection(node.output):
            before.insert(0, node)
            wanted.update(node.input)
    (given,) = [name for name in inputs if is_mask(name)]
    handed_on = [name for name in outputs if is_mask(name)]
    if given != MASK and (handed_on or MASK in wanted):
        before.insert(0, helper.make_node("Identity", [given], [MASK]))
    elif given != MASK:
        inputs = [name for name in inputs if name != given]
    after = [helper.make_node("Identity", [MASK], [name]) for name in handed_on]
    return [*before, *nodes, *after], inputs


def mask_of(exit: int) -> str:
    """The name under which a segment hands the mask on."""
    return f"{MASK}_{exit}"


def is_mask(name: str) -> bool:
    return name.startswith(MASK)


def exported(
    model: ModelProto,
    *,
    file: str,
    exit: int,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    macs: int,
    macs_by_length: dict[int, int],
) -> ExportedGraph:
    """A graph with its manifest entry."""
    drop_notes(model)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    entry = Graph(
        file=file,
        sha256=sha256(content),
        exit=exit,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        macs=macs,
        macs_by_length=macs_by_length,
        parameters=sum(
            prod(weight.dims)
            for weight in model.graph.initializer
            if weight.data_type == TensorProto.FLOAT
        ),
    )
    return ExportedGraph(entry, content)


def batch_nodes(
    program: Program, names: Sequence[str], source: str
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes that compute what follows from the batch, read off `source`'s shape."""
    if not names:
        return [], []
    constants = [numpy_helper.from_array(np.array([0]), "batch/axis")]
    nodes = [
        helper.make_node("Shape", [source], ["batch/shape"]),
        helper.make_node("Gather", ["batch/shape", "batch/axis"], ["batch/rows"]),
    ]
    for name in names:
        follows = program.follows[name]
        parts = {
            "slope": follows.slope.ravel(),
            "base": follows.base.ravel(),
            "dims": np.array(follows.base.shape, dtype=np.int64),
        }
        constants += [
            numpy_helper.from_array(v, f"batch/{name}/{part}") for part, v in parts.items()
        ]
        nodes += [
            helper.make_node(
                "Mul", ["batch/rows", f"batch/{name}/slope"], [f"batch/{name}/scaled"]
            ),
            helper.make_node(
                "Add", [f"batch/{name}/scaled", f"batch/{name}/base"], [f"batch/{name}/flat"]
            ),
            helper.make_node("Reshape", [f"batch/{name}/flat", f"batch/{name}/dims"], [name]),
        ]
    return nodes, constants


def described(program: Program, name: str) -> onnx.ValueInfoProto:
    found = spec(program, name)
    names = {BATCH_SIZE: BATCH, LENGTH_SIZE: LENGTH}
    shape = [names.get(size, size) for size in found.shape]
    return helper.make_tensor_value_info(name, ELEMENTS[found.dtype], shape)


def spec(program: Program, name: str) -> TensorSpec:
    if program.is_of_texts and (is_mask(name) or name in program.inputs):
        return TensorSpec(name=name, dtype="int64", shape=(BATCH_SIZE, LENGTH_SIZE))
    _, *sizes = program.shapes[name]
    if program.is_of_texts:
        goes_along = program.spans[name][1:]
        sizes = [LENGTH_SIZE if g else n for g, n in zip(goes_along, sizes, strict=True)]
    dtype: Literal["uint8", "float32"] = "uint8" if name == IMAGES else "float32"
    return TensorSpec(name=name, dtype=dtype, shape=(BATCH_SIZE, *sizes))


def macs(program: Program, node: NodeProto) -> int:
    """Multiply-accumulates of a node for one row.

    Counts convolutions, matrix products, recurrences and attention; other nodes have none.
    """
    shapes = program.shapes
    if node.op_type in CONVOLUTIONS:
        weight = shape_of(program, node.input[CONVOLUTIONS[node.op_type]])
        # a transposed convolution spreads each number of its input, a plain one gathers its output
        counted = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        return prod(shapes[counted]) * prod(weight[1:])
    if node.op_type in PRODUCTS:
        first = shape_of(program, node.input[0])
        is_transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return prod(shapes[node.output[0]]) * (first[-2] if is_transposed else first[-1])
    if node.op_type in RECURRENCES:
        steps, rows, *_ = shapes[node.input[0]]
        weights = (shape_of(program, name) for name in node.input[1:3])
        return steps * rows * sum(map(prod, weights))
    if node.op_type == "Attention":
        return attention_macs(program, node)
    if node.op_type == "Einsum":
        return einsum_macs(program, node)
    return 0


def attention_macs(program: Program, node: NodeProto) -> int:
    """MACs of queries times keys, and of attention weights times values.

    onnxruntime's operator of this name first projects one input to queries, keys and values.
    """
    query, second = (shape_of(program, name) for name in node.input[:2])
    made = prod(program.shapes[node.output[0]])
    if node.domain:
        return prod(query) * second[-1] + 2 * made * query[-2]
    return (prod(query) + made) * second[-2]


def einsum_macs(program: Program, node: NodeProto) -> int:
    """The product of the sizes of all letters, and of what `...` stands for."""
    (equation,) = (a.s.decode() for a in node.attribute if a.name == "equation")
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    others = 1
    for term, name in zip(terms, node.input, strict=True):
        shape = shape_of(program, name)
        before, dots, after = term.partition("...")
        end = len(shape) - len(after)
        sizes |= dict(zip(before, shape, strict=False)) | dict(zip(after, shape[end:], strict=True))
        if dots:
            others = max(others, prod(shape[len(before) : end]))
    return others * prod(sizes.values())


def shape_of(program: Program, name: str) -> tuple[int, ...]:
    constant = program.constants.get(name)
    return program.shapes[name] if constant is None else tuple(constant.dims)
