"""Channels are added and convolutions merged, and every graph still computes the same."""

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.process import ROOT
from models.bundle.bundle import Bundle, load_bundle
from tests.training.aligning import assert_aligned_alike, close, run, widened
from training.exporting.align import Layout, aligned


def test_every_graph_of_trained_networks_computes_the_same(digits_bundle: Bundle) -> None:
    """Of a narrow network, and of one of seven exits; other families: models/nets/test_export.py"""
    generator = np.random.default_rng(0)
    for bundle in (digits_bundle, load_bundle(ROOT / "models/zoo/cifar100-msdnet/6")):
        manifest, takes = bundle.manifest, bundle.manifest.image_input
        shape = (3, takes.height, takes.width, takes.channels)
        segments = [bundle.graphs[graph.file] for graph in manifest.segments]
        heads = [bundle.graphs[graph.file] for graph in manifest.exit_heads]
        assert_aligned_alike(segments, heads, generator.integers(0, 256, shape, np.uint8))


def convolutions(model: ModelProto) -> list[tuple[int, ...]]:
    """Shapes of the weights, (made, given, height, width), in order."""
    weights = {w.name: tuple(w.dims) for w in model.graph.initializer}
    return [weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]


def graph_of(
    nodes: list[tuple[str, str, str, tuple[int, ...]]], channels: int, outputs: list[str]
) -> ModelProto:
    """Operators (type, input, output, weight shape) on an image `x`; several inputs by commas."""
    generator = np.random.default_rng(0)
    made, weights = [], []
    for kind, source, target, shape in nodes:
        if kind == "Conv":
            w = generator.normal(size=shape).astype(np.float32)
            b = generator.normal(size=shape[0]).astype(np.float32)
            weights += [
                numpy_helper.from_array(w, f"{target}_w"),
                numpy_helper.from_array(b, f"{target}_b"),
            ]
            pads, size = [shape[-1] // 2] * 4, list(shape[2:])
            inputs = [source, f"{target}_w", f"{target}_b"]
            made.append(helper.make_node(kind, inputs, [target], kernel_shape=size, pads=pads))
        else:
            made.append(helper.make_node(kind, source.split(","), [target]))
            if kind == "Concat":
                made[-1].attribute.append(helper.make_attribute("axis", 1))
    graph = helper.make_graph(
        made,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def compare(model: ModelProto) -> tuple[ModelProto, dict[str, Layout]]:
    """Aligned, and checked to compute the same."""
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 8)).astype(np.float32)
    renewed, layouts = aligned(model, {})
    found = run(renewed, {"x": x})
    for name, array in run(model, {"x": x}).items():
        assert close(found[name], widened(array, layouts.get(name)))
    return renewed, layouts


def test_small_convolutions_of_one_tensor_become_one_as_wide_as_the_kernel() -> None:
    model = graph_of(
        [
            ("Conv", "x", "a", (6, 8, 1, 1)),
            ("Relu", "a", "ar", ()),
            ("Conv", "x", "b", (6, 8, 1, 1)),
            ("Relu", "b", "br", ()),
            ("Conv", "x", "c", (6, 8, 1, 1)),
            ("Relu", "c", "cr", ()),
            ("Conv", "ar", "d", (16, 6, 3, 3)),
            ("Conv", "br", "e", (16, 6, 3, 3)),
            ("Conv", "cr", "f", (16, 6, 3, 3)),
        ],
        8,
        ["d", "e", "f"],
    )
    renewed, _ = compare(model)  # three times six are more than sixteen
    sides = [(16, 8, 1, 1), (16, 16, 3, 3), (16, 16, 3, 3), (16, 8, 1, 1), (16, 16, 3, 3)]
    assert sorted(convolutions(renewed)) == sorted(sides)


def test_what_is_concatenated_keeps_a_multiple_of_four() -> None:
    model = graph_of(
        [
            ("Conv", "x", "a", (6, 8, 3, 3)),
            ("Relu", "a", "ar", ()),
            ("Concat", "x,ar", "y", ()),
            ("Conv", "y", "z", (16, 14, 1, 1)),
        ],
        8,
        ["y", "z"],
    )
    renewed, layouts = compare(model)
    assert layouts["y"].tolist() == [*range(14), -1, -1]
    assert convolutions(renewed) == [(16, 8, 3, 3), (16, 16, 1, 1)]
    assert renewed.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 16


def test_what_others_read_is_not_padded() -> None:
    model = graph_of(
        [
            ("Conv", "x", "a", (6, 8, 1, 1)),
            ("Relu", "a", "ar", ()),
            ("Sigmoid", "ar", "s", ()),
            ("Conv", "x", "b", (6, 8, 1, 1)),
        ],
        8,
        ["s", "b"],
    )
    renewed, layouts = compare(model)
    assert convolutions(renewed) == [(6, 8, 1, 1), (6, 8, 1, 1)]
    assert layouts["b"].tolist() == list(range(6))


def test_a_node_that_is_not_known_gets_the_channels_it_had() -> None:
    model = graph_of(
        [
            ("Conv", "x", "a", (6, 8, 3, 3)),
            ("Concat", "a,x", "y", ()),
            ("Sigmoid", "y", "s", ()),
            ("Conv", "y", "z", (16, 14, 1, 1)),
        ],
        8,
        ["s", "z"],
    )
    renewed, _ = compare(model)
    (gather,) = (node for node in renewed.graph.node if node.op_type == "Gather")
    weights = {w.name: numpy_helper.to_array(w) for w in renewed.graph.initializer}
    assert weights[gather.input[1]].tolist() == [*range(6), *range(8, 16)]
    assert convolutions(renewed) == [(16, 8, 3, 3), (16, 16, 1, 1)]
