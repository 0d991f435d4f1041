"""Small trained classifiers of digits as ONNX files, each in the manner of a family of networks."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from models.nets.msdnet import msdnet as msdnet_of
from models.nets.multi_exit import MultiExitNet
from models.nets.presets import MSDNETS

SIZE, CLASSES, WIDTH = 8, 10, 16


class Net:
    """A graph under construction; weights are drawn at random, which is enough to be imitated."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.generator = np.random.default_rng(0)

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:  # noqa: ANN401
        made = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [made], name=made, **attributes))
        return made

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, *shape: int) -> str:
        fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        values = self.generator.normal(0, np.sqrt(2 / fan_in), shape)
        return self.constant(values.astype(np.float32))

    def conv(self, x: str, num_in: int, num_out: int, kernel: int = 3, groups: int = 1) -> str:
        weight = self.weight(num_out, num_in // groups, kernel, kernel)
        pads = [kernel // 2] * 4
        return self.add("Relu", [self.add("Conv", [x, weight], pads=pads, group=groups)])

    def classifier(self, x: str, width: int = WIDTH) -> str:
        pooled = self.add("Flatten", [self.add("GlobalAveragePool", [x])])
        return self.add("Gemm", [pooled, self.weight(width, CLASSES)])

    def save(
        self,
        path: Path,
        output: str,
        shape: list[int | str],
        kind: int = TensorProto.FLOAT,
        opset: int = 13,
        classes: int = CLASSES,
    ) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(output, kind, [shape[0], classes])],
            self.weights,
        )
        opsets = [helper.make_opsetid("", opset)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path


def residual_body(net: Net, x: str) -> str:
    x = net.conv(x, 1, WIDTH)
    for _ in range(3):
        inner = net.add("Conv", [net.conv(x, WIDTH, WIDTH), net.weight(WIDTH, WIDTH, 1, 1)])
        x = net.add("Relu", [net.add("Add", [x, inner])])
    return net.classifier(x)


def residual(path: Path) -> Path:
    net = Net()
    return net.save(path, residual_body(net, "x"), ["batch", 1, SIZE, SIZE])


def old_opset(path: Path) -> Path:
    net = Net()
    return net.save(path, residual_body(net, "x"), ["batch", 1, SIZE, SIZE], opset=11)


def depthwise(path: Path) -> Path:
    net = Net()
    x = net.conv("x", 1, WIDTH)
    for _ in range(3):
        inner = net.conv(net.conv(x, WIDTH, 32, kernel=1), 32, 32, groups=32)
        x = net.add("Add", [x, net.add("Conv", [inner, net.weight(WIDTH, 32, 1, 1)])])
    return net.save(path, net.classifier(x), ["batch", 1, SIZE, SIZE])


def softmax(path: Path) -> Path:
    net = Net()
    output = net.add("Softmax", [residual_body(net, "x")], axis=1)
    return net.save(path, output, ["batch", 1, SIZE, SIZE])


def batch_of_one(path: Path) -> Path:
    """Its reshape names the batch, as exporters without dynamic axes write it."""
    net = Net()
    x = net.conv(net.conv("x", 1, WIDTH), WIDTH, WIDTH)
    shape = net.constant(np.array([1, WIDTH, SIZE * SIZE]))
    flat = net.add("ReduceMean", [net.add("Reshape", [x, shape])], axes=[2], keepdims=0)
    output = net.add("Gemm", [flat, net.weight(WIDTH, CLASSES)])
    return net.save(path, output, [1, 1, SIZE, SIZE])


def half(path: Path) -> Path:
    net = Net()
    output = residual_body(net, "x")
    for weight in net.weights:
        values = numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return net.save(path, output, ["batch", 1, SIZE, SIZE], kind=TensorProto.FLOAT16)


def channels_last(path: Path) -> Path:
    """Keras's conventions as tf2onnx writes them: NHWC in, transposed inside, softmax out."""
    net = Net()
    body = residual_body(net, net.add("Transpose", ["x"], perm=[0, 3, 1, 2]))
    output = net.add("Softmax", [body], axis=1)
    return net.save(path, output, ["batch", SIZE, SIZE, 1])


def transformer(path: Path, batch: int | None = None) -> Path:
    """Patches of 2 x 2, a class token, two blocks of attention with two heads; for any batch."""
    net, tokens, width, heads = Net(), 17, WIDTH, 2
    patches = net.add("Conv", ["x", net.weight(width, 1, 2, 2)], strides=[2, 2])
    if batch is None:
        rows = net.add("Gather", [net.add("Shape", ["x"]), net.constant(np.array([0]))])
    else:
        rows = net.constant(np.array([batch]))
    shape = net.add("Concat", [rows, net.constant(np.array([width, tokens - 1]))], axis=0)
    sequence = net.add("Transpose", [net.add("Reshape", [patches, shape])], perm=[0, 2, 1])
    one = net.add("Concat", [rows, net.constant(np.array([1, width]))], axis=0)
    token = net.add("Expand", [net.weight(1, 1, width), one])
    x = net.add("Concat", [token, sequence], axis=1)
    split = net.add(
        "Concat", [rows, net.constant(np.array([tokens, heads, width // heads]))], axis=0
    )
    joined = net.add("Concat", [rows, net.constant(np.array([tokens, width]))], axis=0)
    for _ in range(2):
        query, key, value = (
            net.add(
                "Transpose",
                [net.add("Reshape", [net.add("MatMul", [x, net.weight(width, width)]), split])],
                perm=perm,
            )
            for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        weights = net.add("Softmax", [net.add("MatMul", [query, key])], axis=-1)
        mixed = net.add("Transpose", [net.add("MatMul", [weights, value])], perm=[0, 2, 1, 3])
        x = net.add("Add", [x, net.add("Reshape", [mixed, joined])])
        hidden = net.add("Relu", [net.add("MatMul", [x, net.weight(width, 32)])])
        x = net.add("Add", [x, net.add("MatMul", [hidden, net.weight(32, width)])])
    first = net.add("Gather", [x, net.constant(np.array(0))], axis=1)
    output = net.add("Gemm", [first, net.weight(width, CLASSES)])
    return net.save(path, output, [batch or "batch", 1, SIZE, SIZE])


class LastExit(nn.Module):
    """A multi-exit network as one that has a single output."""

    def __init__(self, net: MultiExitNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)[-1]  # type: ignore[no-any-return]


def msdnet(path: Path) -> Path:
    """Dense connections on three scales, as torch exports them."""
    torch.manual_seed(0)
    config = replace(MSDNETS["msdnet-tiny"], layers=(2, 1))
    net = LastExit(msdnet_of(config, (SIZE, SIZE, 1), CLASSES)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecated calls
        torch.onnx.export(
            net,
            (torch.zeros(2, 1, SIZE, SIZE),),
            path,
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    return path


Maker = Callable[[Path], Path]
NETWORKS: dict[str, Maker] = {
    made.__name__: made
    for made in (
        residual,
        old_opset,
        depthwise,
        softmax,
        batch_of_one,
        half,
        channels_last,
        transformer,
        msdnet,
    )
}
