"""What exit heads see: means of cells of a map, of a few where many would make too many numbers."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from training.attaching.cut import Place
from training.attaching.pooling import (
    OPSETS,
    cells,
    channel_axis,
    channels_of,
    pool_graph,
    side_of,
)
from training.attaching.preprocessing import IMAGES
from training.attaching.program import Program


@pytest.mark.parametrize(
    ("shape", "side"),
    [
        ((1, 16, 112, 112), 3),
        ((1, 192, 7, 7), 3),
        ((1, 512, 7, 7), 2),
        ((1, 2048, 7, 7), 1),
        ((1, 64, 2, 5), 2),
        ((1, 64, 1, 5), 1),
    ],
)
def test_a_map_gives_no_more_numbers_than_a_head_can_take(
    shape: tuple[int, ...], side: int
) -> None:
    assert side_of(shape) == side


@pytest.mark.parametrize(("length", "side"), [(7, 3), (9, 3), (5, 2), (4, 1)])
def test_cells_cover_the_whole_map(length: int, side: int) -> None:
    shape = (2, 3, length, length + 1)
    graph = helper.make_graph(
        [cells("x", "y", shape, side)],
        "cells",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, side, side])],
    )
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
    onnx.checker.check_model(model)
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": maps})
    assert found.shape == (2, 3, side, side)
    heights, widths = (
        [slice(i * (n // side), n - (side - 1 - i) * (n // side)) for i in range(side)]
        for n in shape[2:]
    )
    expected = [[maps[:, :, rows, columns].mean((2, 3)) for columns in widths] for rows in heights]
    assert found == pytest.approx(np.array(expected).transpose(2, 3, 0, 1), abs=1e-6)


@pytest.mark.parametrize(
    ("size", "shape", "axis"),
    [
        ((224, 224), (1, 96, 56, 56), 1),
        ((224, 224), (1, 56, 56, 96), 3),
        ((224, 224), (1, 56, 56, 56), 1),
        ((96, 160), (1, 48, 12, 20), 1),
        ((96, 160), (1, 12, 20, 48), 3),
        ((100, 150), (1, 48, 13, 19), 1),
        ((100, 150), (1, 13, 19, 48), 3),
        ((64, 64), (1, 16, 1, 16), 1),
        ((64, 64), (1, 64, 32), 2),
    ],
)
def test_channels_are_told_from_height_and_width(
    size: tuple[int, int], shape: tuple[int, ...], axis: int
) -> None:
    """As in maps of ConvNeXt and Swin, which have channels last in places."""
    assert channel_axis(shape, (1, *size, 3)) == axis


def test_sequences_of_convolutions_and_flattened_maps_have_channels_second() -> None:
    """Each tensor has 6 channels and 9 places, or the reverse behind the transposition."""
    made = {
        "flat": helper.make_node("Reshape", ["map", "shape"], ["flat"]),
        "conv": helper.make_node("Conv", ["flat", "weight"], ["conv"]),
        "sum": helper.make_node("Add", ["conv", "flat"], ["sum"]),
        "tokens": helper.make_node("Transpose", ["sum"], ["tokens"], perm=[0, 2, 1]),
        "hidden": helper.make_node("MatMul", ["tokens", "weight_2"], ["hidden"]),
    }
    shapes = {IMAGES: (1, 12, 12, 3), "map": (1, 6, 3, 3), "flat": (1, 6, 9), "conv": (1, 6, 9)}
    shapes |= {"sum": (1, 6, 9), "tokens": (1, 9, 6), "hidden": (1, 9, 6)}
    program = Program(tuple(made.values()), {}, shapes, frozenset(shapes), {}, (), 8)
    axes = {name: channels_of(program, name) for name in made}
    assert axes == {"flat": 1, "conv": 1, "sum": 1, "tokens": 2, "hidden": 2}
    sequence = np.random.default_rng(0).normal(size=(1, 6, 9)).astype(np.float32)
    graph = pool_graph(program, Place(3, ("sum",), 0.5), 1)
    (pooled,) = ort.InferenceSession(graph.content).run(None, {"sum": sequence})
    assert pooled == pytest.approx(sequence.mean(axis=2), abs=1e-6)
