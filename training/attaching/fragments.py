"""Parts of a network as graphs of their own, and what each takes and costs."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from models.bundle.bundle import sha256
from models.bundle.manifest import Graph
from models.bundle.manifest import Tensor as TensorSpec
from training.attaching.preprocessing import IMAGES
from training.attaching.program import Program
from training.attaching.read import BATCH
from training.graphs import ExportedGraph


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
    nodes = program.nodes[start:stop]
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
        helper.make_model(graph, opset_imports=program.opsets, ir_version=program.ir_version),
        file=file,
        exit=exit,
        inputs=[spec(program, name) for name in inputs],
        outputs=[spec(program, name) for name in outputs],
        macs=sum(macs(program, node) for node in nodes),
    )


def exported(
    model: ModelProto,
    *,
    file: str,
    exit: int,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    macs: int,
) -> ExportedGraph:
    """A graph with its manifest entry."""
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    entry = Graph(
        file=file,
        sha256=sha256(content),
        exit=exit,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        macs=macs,
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
    kind = TensorProto.UINT8 if name == IMAGES else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, [BATCH, *row_shape(program, name)])


def spec(program: Program, name: str) -> TensorSpec:
    return TensorSpec(
        name=name,
        dtype="uint8" if name == IMAGES else "float32",
        shape=(-1, *row_shape(program, name)),
    )


def row_shape(program: Program, name: str) -> tuple[int, ...]:
    return program.shapes[name][1:]


def macs(program: Program, node: NodeProto) -> int:
    """Multiply-accumulates of a node for one row: convolutions and matrix products."""
    shapes = program.shapes
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = shape_of(program, node.input[1])
        # a transposed convolution spreads each number of its input, a plain one gathers its output
        counted = node.output[0] if node.op_type == "Conv" else node.input[0]
        return prod(shapes[counted]) * prod(weight[1:])
    if node.op_type in ("MatMul", "Gemm"):
        first = shape_of(program, node.input[0])
        is_transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return prod(shapes[node.output[0]]) * (first[-2] if is_transposed else first[-1])
    return 0


def shape_of(program: Program, name: str) -> tuple[int, ...]:
    constant = program.constants.get(name)
    return program.shapes[name] if constant is None else tuple(constant.dims)
