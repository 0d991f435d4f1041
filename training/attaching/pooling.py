"""Features made small enough to keep: what every exit head sees of them."""

from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.bundle.records import Tensor as TensorSpec
from training.attaching.cut import Place
from training.attaching.fragments import CONVOLUTIONS, described, exported, mask_of, spec
from training.attaching.preprocessing import IMAGES
from training.attaching.program import Program
from training.attaching.rewriting import BATCH, LOGITS
from training.exporting.graphs import ExportedGraph

OPSETS = (helper.make_opsetid("", 17),)
IR_VERSION = 8
POOLED = "head/pooled"
SIDE = 3
MAX_WIDTH = 2048
"""A map gives its mean in each of SIDE x SIDE cells, in fewer where that makes more numbers."""
CHANNELS_SECOND = (
    *CONVOLUTIONS,
    "BatchNormalization",
    "InstanceNormalization",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
)
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Relu", "Clip", "Sigmoid", "Tanh", "Erf", "LeakyRelu")

Layer = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Weights, (in, out), and bias, (out,), of a linear layer."""


def pool_nodes(
    program: Program, place: Place, exit: int
) -> tuple[list[NodeProto], list[TensorProto], int]:
    """Nodes from the tensors at a place to `POOLED`, their constants, and its width.

    Maps give the mean of each of a few cells, since where things are says much of what they are;
    vectors themselves; sequences their mean and, where channels come last, their first token, which
    may be a class token.
    """
    if program.is_of_texts:
        return text_pool_nodes(program, place, exit)
    nodes: list[NodeProto] = []
    parts: list[str] = []
    width = 0
    needs_zero = False
    for index, name in enumerate(place.tensors):
        shape = program.shapes[name]
        channels = channels_of(program, name)
        made = [f"head/mean_{index}"]
        axes = [axis for axis in range(1, len(shape)) if axis != channels]
        num_cells = 1
        if not axes:
            made = [name]
        elif len(shape) == 4 and channels == 1:
            side = side_of(shape)
            num_cells = side**2
            nodes.append(cells(name, f"head/map_{index}", shape, side))
            nodes.append(helper.make_node("Flatten", [f"head/map_{index}"], made))
        else:
            nodes.append(helper.make_node("ReduceMean", [name], made, axes=axes, keepdims=0))
        if len(shape) == 3 and channels == 2:
            made.append(f"head/first_{index}")
            nodes.append(helper.make_node("Gather", [name, "head/zero"], made[1:], axis=1))
            needs_zero = True
        parts += made
        width += len(made) * num_cells * shape[channels]
    nodes.append(helper.make_node("Concat", parts, [POOLED], axis=1))
    zero = [numpy_helper.from_array(np.array(0), "head/zero")] if needs_zero else []
    return nodes, zero, width


def side_of(shape: tuple[int, ...]) -> int:
    """Cells along each side of a map, (batch, channels, height, width)."""
    sides = range(min(SIDE, *shape[2:]), 1, -1)
    return next((side for side in sides if side**2 * shape[1] <= MAX_WIDTH), 1)


def cells(name: str, made: str, shape: tuple[int, ...], side: int) -> NodeProto:
    """The mean of each of `side` x `side` cells of a map; cells of one size, which may overlap."""
    strides = [length // side for length in shape[2:]]
    kernel = [
        length - (side - 1) * stride for length, stride in zip(shape[2:], strides, strict=True)
    ]
    return helper.make_node("AveragePool", [name], [made], kernel_shape=kernel, strides=strides)


def text_pool_nodes(
    program: Program, place: Place, exit: int
) -> tuple[list[NodeProto], list[TensorProto], int]:
    """Pooling by two rows of weights for each text: 1 / tokens of each token, and 1 of one token.

    The one is the first, or the last of a causal network, which alone has seen the others.
    """
    constants = {
        "head/axis": np.array([1]),
        "head/start": np.array([[1]], dtype=np.float32),
    }
    chosen = "head/tokens" if program.is_causal else "head/start"
    nodes = [
        helper.make_node("Cast", [mask_of(exit)], ["head/mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["head/mask", "head/axis"], ["head/tokens"], keepdims=1),
        helper.make_node("Div", ["head/mask", "head/tokens"], ["head/of_mean"]),
        helper.make_node("CumSum", ["head/mask", "head/axis"], ["head/order"]),
        helper.make_node("Equal", ["head/order", chosen], ["head/is_chosen"]),
        helper.make_node("Cast", ["head/is_chosen"], ["head/chosen"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["head/chosen", "head/mask"], ["head/of_token"]),
        helper.make_node("Unsqueeze", ["head/of_mean", "head/axis"], ["head/mean"]),
        helper.make_node("Unsqueeze", ["head/of_token", "head/axis"], ["head/token"]),
        helper.make_node("Concat", ["head/mean", "head/token"], ["head/weights"], axis=1),
    ]
    parts: list[str] = []
    width = 0
    for index, name in enumerate(place.tensors):
        shape = program.shapes[name]
        if len(shape) == 2:
            parts.append(name)
            width += shape[-1]
        else:
            rows, part = f"head/rows_{index}", f"head/part_{index}"
            nodes.append(helper.make_node("MatMul", ["head/weights", name], [rows]))
            nodes.append(helper.make_node("Flatten", [rows], [part]))
            parts.append(part)
            width += 2 * shape[-1]
    nodes.append(helper.make_node("Concat", parts, [POOLED], axis=1))
    return nodes, [numpy_helper.from_array(v, n) for n, v in constants.items()], width


def channels_of(program: Program, name: str) -> int:
    """The axis of channels: of three axes the second where what made the tensor says so."""
    is_second = len(program.shapes[name]) == 3 and has_channels_second(program, name)
    return 1 if is_second else channel_axis(program.shapes[name], program.shapes[IMAGES])


def has_channels_second(program: Program, name: str) -> bool:
    """Whether a tensor of three axes comes from a convolution, a pool or a flattened map."""
    shapes = program.shapes
    maker = next((node for node in program.nodes if name in node.output), None)
    if maker is None or maker.op_type in CHANNELS_SECOND:
        return maker is not None
    source = maker.input[0]
    if maker.op_type == "Reshape" and len(shapes.get(source, ())) == 4:
        keeps = shapes[source][:2] == shapes[name][:2]
        return keeps and channel_axis(shapes[source], shapes[IMAGES]) == 1
    if maker.op_type not in ELEMENTWISE:
        return False
    same = [n for n in maker.input if n in shapes and shapes[n] == shapes[name]]
    return any(has_channels_second(program, n) for n in same)


def channel_axis(shape: tuple[int, ...], images: tuple[int, ...]) -> int:
    """Maps have channels first, unless only the axes before the last have the image's proportions.

    `images` is the shape of images, channels last. Other tensors have channels last.
    """
    if len(shape) != 4:
        return len(shape) - 1
    _, height, width, _ = images
    is_first, is_last = (
        abs(rows * width / height - columns) < 1 for rows, columns in (shape[2:], shape[1:3])
    )
    return 3 if is_last and not is_first else 1


def pool_graph(program: Program, place: Place, exit: int) -> ExportedGraph:
    """What the cache keeps of one place, as if it were an exit head."""
    nodes, constants, width = pool_nodes(program, place, exit)
    output = TensorSpec(name=POOLED, dtype="float32", shape=(-1, width))
    return graph(program, place, nodes, constants, output, exit, macs=0)


def head_graph(program: Program, place: Place, layers: list[Layer], exit: int) -> ExportedGraph:
    """An exit head: the pooled features through linear layers, with a ReLU between them."""
    nodes, constants, _ = pool_nodes(program, place, exit)
    source = POOLED
    for index, layer in enumerate(layers):
        names = [f"head/weight_{index}", f"head/bias_{index}"]
        constants += map(numpy_helper.from_array, layer, names)
        is_last = index == len(layers) - 1
        made = LOGITS if is_last else f"head/linear_{index}"
        nodes.append(helper.make_node("Gemm", [source, *names], [made]))
        if not is_last:
            source = f"head/hidden_{index}"
            nodes.append(helper.make_node("Relu", [made], [source]))
    output = TensorSpec(name=LOGITS, dtype="float32", shape=(-1, layers[-1][0].shape[1]))
    macs = sum(prod(weight.shape) for weight, _ in layers)
    return graph(program, place, nodes, constants, output, exit, macs=macs)


def graph(
    program: Program,
    place: Place,
    nodes: list[NodeProto],
    constants: list[TensorProto],
    output: TensorSpec,
    exit: int,
    *,
    macs: int,
) -> ExportedGraph:
    used = {name for node in nodes for name in node.input}
    handed = (*place.tensors, mask_of(exit)) if program.is_of_texts else place.tensors
    inputs = [name for name in handed if name in used]
    made = helper.make_graph(
        nodes,
        f"exit_{exit}",
        [described(program, name) for name in inputs],
        [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [BATCH, *output.shape[1:]])],
        constants,
    )
    return exported(
        helper.make_model(made, opset_imports=OPSETS, ir_version=IR_VERSION),
        file=f"exit_{exit}.onnx",
        exit=exit,
        inputs=[spec(program, name) for name in inputs],
        outputs=[output],
        macs=macs,
        macs_by_length=dict.fromkeys(program.lengths, macs),
    )
