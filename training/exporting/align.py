"""Convolutions given the widths that onnxruntime's 8-bit kernels are fast at.

The fast kernel makes at least 16 channels from a multiple of 4; others take up to three times as
long. So channels are added whose weights are zero, small convolutions of the same tensor become
one, and what a graph computes stays the same.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

FEWEST, STEP = 16, 4
"""Channels of the fast kernel: at least so many made, of a multiple of so many."""
CHANNEL_AXIS = 1
CHANNELWISE = ("Relu", "MaxPool", "AveragePool")

Layout = NDArray[np.int64]
"""For each channel of a tensor the one it stands for, or -1 where it is always zero."""
PADDING = -1


class View(NamedTuple):
    """Where a tensor of the original graph is found in the new one."""

    name: str
    layout: Layout


def aligned(
    model: ModelProto, layouts: Mapping[str, Layout]
) -> tuple[ModelProto, dict[str, Layout]]:
    """A graph that computes the same, and the layouts of its outputs.

    `layouts` are those of its inputs, where these have been aligned, too. Both have their shapes
    inferred. Batch normalisation must be folded into the convolutions.
    """
    aligner = _Aligner(model, layouts)
    for node in model.graph.node:
        aligner.add(node)
    graph = model.graph
    used = {name for node in aligner.nodes for name in node.input}
    made = helper.make_graph(
        aligner.nodes,
        graph.name,
        [aligner.described(value) for value in graph.input],
        [aligner.described(value) for value in graph.output],
        [weight for weight in (*graph.initializer, *aligner.weights) if weight.name in used],
    )
    renewed = helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)
    renewed.metadata_props.extend(model.metadata_props)  # says that the graph is prepared
    outputs = {
        v.name: aligner.views[v.name].layout for v in graph.output if v.name in aligner.views
    }
    return renewed, outputs


class _Aligner:
    """Nodes and weights of the new graph, and the views of those tensors that have channels."""

    def __init__(self, model: ModelProto, layouts: Mapping[str, Layout]) -> None:
        graph = model.graph
        self.nodes: list[NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.views: dict[str, View] = {}
        self._old_weights = {w.name: w for w in graph.initializer}
        self._consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._consumers[name].append(node)
        self._outputs = {value.name for value in graph.output}
        self._channels = {
            value.name: value.type.tensor_type.shape.dim[CHANNEL_AXIS].dim_value
            for value in (*graph.input, *graph.value_info, *graph.output)
            if len(value.type.tensor_type.shape.dim) > CHANNEL_AXIS
        }
        for value in graph.input:
            if value.name in layouts:
                self.views[value.name] = View(value.name, layouts[value.name])

    def add(self, node: NodeProto) -> None:
        """Adds what takes the place of a node of the original graph."""
        if node.output[0] in self.views:
            return  # it was merged into one before it
        if self._is_plain_convolution(node):
            self._add_convolutions(self._siblings(node))
        elif node.op_type in CHANNELWISE and node.input[0] in self.views:
            source, layout = self.views[node.input[0]]
            self._append(node, [source])
            self.views[node.output[0]] = View(node.output[0], layout)
        elif node.op_type == "Concat" and helper.get_node_attr_value(node, "axis") == CHANNEL_AXIS:
            self._add_concatenation(node)
        else:
            self._append(node, [self._original(name) for name in node.input])

    def described(self, value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        """An input or output with the channels it has now."""
        made = onnx.ValueInfoProto()
        made.CopyFrom(value)
        if value.name in self.views:
            channels = made.type.tensor_type.shape.dim[CHANNEL_AXIS]
            channels.dim_value = len(self.views[value.name].layout)
        return made

    def _is_plain_convolution(self, node: NodeProto) -> bool:
        return (
            node.op_type == "Conv"
            and _attributes(node).get("group", 1) == 1
            and len(node.input) == 3
            and all(name in self._old_weights for name in node.input[1:])
        )

    def _siblings(self, node: NodeProto) -> list[NodeProto]:
        """The 1x1 convolutions that can be one with this; the node alone where it is none."""
        together = [node]
        if not self._is_mergeable(node):
            return together
        num_made = self._num_made(node)
        for other in self._consumers[node.input[0]]:
            if other is node or other.output[0] in self.views or not self._is_mergeable(other):
                continue
            if num_made + self._num_made(other) <= FEWEST:
                num_made += self._num_made(other)
                together.append(other)
        return together

    def _is_mergeable(self, node: NodeProto) -> bool:
        """Whether it is a 1x1 convolution whose channels only convolutions see, after a ReLU."""
        if not self._is_plain_convolution(node):
            return False
        attributes = _attributes(node)
        is_plain = attributes.get("strides", [1, 1]) == [1, 1] and not any(
            attributes.get("pads", ())
        )
        if attributes.get("kernel_shape") != [1, 1] or not is_plain:
            return False
        after = self._after(node)
        return (
            len(self._consumers[node.output[0]]) == 1
            and after != node.output[0]
            and all(map(self._is_plain_convolution, self._consumers[after]))
            and after not in self._outputs
        )

    def _after(self, node: NodeProto) -> str:
        """The tensor that a convolution makes together with the ReLU behind it, if there is one."""
        output: str = node.output[0]
        behind = self._consumers[output]
        return behind[0].output[0] if [n.op_type for n in behind] == ["Relu"] else output

    def _num_made(self, node: NodeProto) -> int:
        num_made: int = self._old_weights[node.input[1]].dims[0]
        return num_made

    def _add_convolutions(self, nodes: list[NodeProto]) -> None:
        """One convolution for all of them, as wide as the fast kernel wants where that helps."""
        first = nodes[0]
        source, layout = self._view(first.input[0])
        weights = np.concatenate([self._weight(node, 1) for node in nodes])
        bias = np.concatenate([self._weight(node, 2) for node in nodes])
        spread = np.where(layout >= 0, np.moveaxis(weights, 1, -1)[..., layout], 0)
        weights = np.moveaxis(spread, -1, 1).astype(weights.dtype)
        num_made = len(weights)
        width = max(FEWEST, _rounded_up(num_made)) if self._can_pad(first, layout) else num_made
        padding = [(0, width - num_made), *[(0, 0)] * (weights.ndim - 1)]
        names = [f"{first.output[0]}_{part}" for part in ("weight", "bias")]
        self.weights += [
            numpy_helper.from_array(np.pad(weights, padding), names[0]),
            numpy_helper.from_array(np.pad(bias, padding[:1]), names[1]),
        ]
        self._append(first, [source, *names])
        start = 0
        for node in nodes:
            made = np.full(width, PADDING)
            made[start : start + self._num_made(node)] = np.arange(self._num_made(node))
            start += self._num_made(node)
            self.views[node.output[0]] = View(first.output[0], made)
            if node is not first:
                self.views[self._after(node)] = View(self._after(first), made)

    def _can_pad(self, node: NodeProto, layout: Layout) -> bool:
        """Whether more channels make it faster and are not seen outside the graph."""
        after = self._after(node)
        return (
            len(layout) % STEP == 0
            and not {node.output[0], after} & self._outputs
            and all(n.op_type in ("Conv", "Concat") for n in self._consumers[after])
        )

    def _add_concatenation(self, node: NodeProto) -> None:
        """Of what was padded no more is kept than makes a multiple of 4."""
        if not all(name in self.views or self._channels.get(name) for name in node.input):
            self._append(node, [self._original(name) for name in node.input])
            return
        names, layouts, num_before = [], [], 0
        for name in node.input:
            source, layout = self._view(name)
            kept = layout[: _rounded_up(int(np.flatnonzero(layout >= 0).max()) + 1)]
            if len(kept) < len(layout):
                source = self._sliced(source, len(kept))
            names.append(source)
            layouts.append(np.where(kept >= 0, kept + num_before, PADDING))
            num_before += self._channels[name]
        self._append(node, names)
        self.views[node.output[0]] = View(node.output[0], np.concatenate(layouts))

    def _view(self, name: str) -> View:
        return self.views.get(name) or View(name, np.arange(self._channels[name]))

    def _original(self, name: str) -> str:
        """The tensor with the channels it had, for a node that is not known to do without."""
        source, layout = self.views.get(name, (name, None))
        if layout is None or np.array_equal(layout, np.arange(len(layout))):
            return source
        order = [int(np.flatnonzero(layout == c)[0]) for c in range(self._channels[name])]
        made, names = self._constants("gather", source, order)
        self.nodes.append(helper.make_node("Gather", [source, *names], [made], axis=CHANNEL_AXIS))
        return made

    def _sliced(self, source: str, num_channels: int) -> str:
        made, names = self._constants("slice", source, [0], [num_channels], [CHANNEL_AXIS])
        self.nodes.append(helper.make_node("Slice", [source, *names], [made]))
        return made

    def _constants(self, what: str, source: str, *values: list[int]) -> tuple[str, list[str]]:
        """Names for what is made of a tensor, and for the integers it takes, which are added."""
        made = f"{source}_{what}_{len(self.nodes)}"
        names = [f"{made}_{index}" for index in range(len(values))]
        self.weights += map(numpy_helper.from_array, map(np.array, values), names)
        return made, names

    def _weight(self, node: NodeProto, index: int) -> NDArray[np.float32]:
        return numpy_helper.to_array(self._old_weights[node.input[index]])

    def _append(self, node: NodeProto, inputs: list[str]) -> None:
        made = NodeProto()
        made.CopyFrom(node)
        made.input[:] = inputs
        self.nodes.append(made)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _rounded_up(num_channels: int) -> int:
    return -(-num_channels // STEP) * STEP
