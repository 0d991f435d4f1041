"""Networks as exporters write them: taken apart, they answer as before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

from models.bundle.runner import SegmentRunner
from tests.training.attaching.networks import (
    CLASSES,
    SIZE,
    WIDTH,
    Net,
    old_opset,
    residual,
    transformer,
)
from training.attaching.answers import check_independence, check_last_exit, own_scores
from training.attaching.cut import classifier, places
from training.attaching.errors import AttachError
from training.attaching.fragments import macs
from training.attaching.program import Program, program
from training.attaching.read import Options, read
from training.attaching.trial import runner_of, uncut
from training.data import load_images
from training.exporting.align import aligned
from training.exporting.quantize import prepared

IMAGES = load_images("digits", "test").images.numpy()[:9]
FUSED = {"domain": "com.microsoft"}


def taken_apart(path: Path) -> tuple[Program, SegmentRunner]:
    """The network's nodes and its two pieces, which answer as it does."""
    network = read(path, Options())
    cut_up = program(network)
    runner = runner_of(*uncut(cut_up, classifier(places(cut_up), cut_up)))
    check_last_exit(network, runner.run([IMAGES])[-1], own_scores(network, [IMAGES]))
    return cut_up, runner


def test_a_reshape_that_names_the_batch_and_takes_zeros_as_sizes(tmp_path: Path) -> None:
    """As torch writes `x.view(x.size(0), -1)` where the batch is fixed."""
    net = Net()
    shape = net.constant(np.array([1, -1]))
    flat = net.add("Reshape", [net.conv("x", 1, WIDTH), shape], allowzero=1)
    output = net.add("Gemm", [flat, net.weight(WIDTH * SIZE * SIZE, CLASSES)])
    taken_apart(net.save(tmp_path / "net.onnx", output, [1, 1, SIZE, SIZE], opset=14))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_class_token_that_was_exported_for_a_batch(batch: int, tmp_path: Path) -> None:
    """As torch writes a vision transformer without dynamic axes."""
    cut_up, _ = taken_apart(transformer(tmp_path / "net.onnx", batch))
    assert [place for place in places(cut_up) if 0.3 < place.share < 0.7]


def test_a_token_that_differs_from_row_to_row_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    net = Net()
    x = net.add("Concat", [net.conv("x", 1, WIDTH), net.weight(2, 1, SIZE, SIZE)], axis=1)
    path = net.save(tmp_path / "net.onnx", net.classifier(x, WIDTH + 1), [2, 1, SIZE, SIZE])
    with pytest.raises(AttachError, match="cannot run a batch of 1; export it with a dynamic"):
        program(read(path, Options()))
    assert capfd.readouterr().err == "", "onnxruntime logs nothing beside the sentence"


def test_an_old_file_whose_weights_are_inputs(tmp_path: Path) -> None:
    path = old_opset(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.ir_version = 3
    for weight in model.graph.initializer:
        given = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        model.graph.input.append(given)
    onnx.save(model, path)
    taken_apart(path)


def test_a_batch_that_is_written_as_minus_one(tmp_path: Path) -> None:
    path = residual(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, path)
    taken_apart(path)


def test_what_is_made_of_shapes_alone_crosses_no_place(tmp_path: Path) -> None:
    """As the first state of a recurrence, which onnxruntime writes before all other nodes."""
    net = Net()
    rows = net.add("Gather", [net.add("Shape", ["x"]), net.constant(np.array([0]))])
    ends = (net.constant(np.array([size])) for size in (1, WIDTH))
    state = net.add("ConstantOfShape", [net.add("Concat", [next(ends), rows, next(ends)], axis=0)])
    x = net.conv("x", 1, WIDTH)
    for _ in range(3):
        x = net.conv(x, WIDTH, WIDTH)
    pooled = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    added = net.add("Add", [pooled, net.add("Squeeze", [state, net.constant(np.array([0]))])])
    output = net.add("Gemm", [added, net.weight(WIDTH, CLASSES)])
    cut_up, _ = taken_apart(net.save(tmp_path / "net.onnx", output, ["batch", 1, SIZE, SIZE]))
    assert [place for place in places(cut_up) if 0.3 < place.share < 0.6]


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """Images as the network takes them, from which the ranges of 8-bit numbers come."""

    def __init__(self) -> None:
        pixels = (IMAGES.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
        self.batches = iter([{"x": pixels.astype(np.float32)}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_network_in_eight_bits_stays_in_eight_bits(tmp_path: Path, *, per_channel: bool) -> None:
    path = tmp_path / "small.onnx"
    quantize_static(residual(tmp_path / "net.onnx"), path, Rows(), per_channel=per_channel)
    cut_up, _ = taken_apart(path)
    kinds = {w.data_type for w in cut_up.constants.values() if len(w.dims) == 4}
    assert kinds == {TensorProto.INT8}
    first = next(node for node in cut_up.nodes if node.op_type == "Conv")
    assert macs(cut_up, first) == SIZE * SIZE * WIDTH * 9


def test_a_network_whose_rows_share_a_range_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    quantize_dynamic(residual(tmp_path / "net.onnx"), path)
    network = read(path, Options())
    cut_up = program(network)
    runner = runner_of(*uncut(cut_up, classifier(places(cut_up), cut_up)))
    bright = np.concatenate([IMAGES // 8, np.full((1, SIZE, SIZE, 1), 255, np.uint8)])
    with pytest.raises(AttachError, match="scores a row otherwise in another batch"):
        check_independence(runner, [bright])
    check_independence(taken_apart(tmp_path / "net.onnx")[1], [bright])


def test_a_network_in_training_mode_is_refused(tmp_path: Path) -> None:
    """As torch exports one whose `eval()` was forgotten: it normalises by its batch."""
    net = Net()
    ones = [net.constant(np.ones(WIDTH, np.float32)) for _ in range(4)]
    x = net.add("BatchNormalization", [net.conv("x", 1, WIDTH), *ones], training_mode=1)
    net.nodes[-1].output.extend(["mean", "variance"])
    output = net.classifier(net.conv(x, WIDTH, WIDTH))
    path = net.save(tmp_path / "net.onnx", output, ["batch", 1, SIZE, SIZE], opset=14)
    _, runner = taken_apart(path)
    with pytest.raises(AttachError, match=r"or exported in training mode; .* after eval"):
        check_independence(runner, [IMAGES])


@pytest.mark.parametrize(
    ("op", "shapes", "out", "attributes", "expected"),
    [
        ("MatMulInteger", [(1, 5, 8), (8, 3)], (1, 5, 3), {}, 5 * 8 * 3),
        ("QLinearMatMul", [(1, 5, 8), (), (), (8, 3)], (1, 5, 3), {}, 5 * 8 * 3),
        ("ConvInteger", [(1, 2, 4, 4), (6, 2, 3, 3)], (1, 6, 2, 2), {}, 24 * 18),
        ("QLinearConv", [(1, 2, 4, 4), (), (), (6, 2, 3, 3)], (1, 6, 2, 2), {}, 24 * 18),
        (
            "Einsum",
            [(1, 2, 5, 8), (1, 2, 7, 8)],
            (1, 2, 5, 7),
            {"equation": "bhid, bhjd -> bhij"},
            2 * 5 * 7 * 8,
        ),
        ("Einsum", [(1, 2, 5, 8), (8, 3)], (1, 2, 5, 3), {"equation": "...d,de->...e"}, 10 * 24),
        ("Attention", [(1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 6)], (1, 2, 5, 6), {}, 70 * (8 + 6)),
        ("Attention", [(1, 5, 16), (1, 7, 16), (1, 7, 16)], (1, 5, 16), {}, 2 * 5 * 7 * 16),
        ("Attention", [(1, 5, 8), (8, 24)], (1, 5, 8), FUSED, 5 * 8 * 24 + 2 * 5 * 5 * 8),
        ("FusedMatMul", [(1, 5, 8), (8, 3)], (1, 5, 3), FUSED, 5 * 8 * 3),
        ("FusedGemm", [(1, 8), (8, 3)], (1, 3), FUSED, 8 * 3),
        ("FusedConv", [(1, 2, 4, 4), (6, 2, 3, 3)], (1, 6, 2, 2), FUSED, 24 * 18),
        ("LSTM", [(5, 1, 8), (1, 64, 8), (1, 64, 16)], (5, 1, 1, 16), {}, 5 * 64 * 24),
        ("GRU", [(5, 1, 8), (2, 48, 8), (2, 48, 16)], (5, 2, 1, 16), {}, 5 * 2 * 48 * 24),
    ],
)
def test_macs_of_a_node_by_hand(
    op: str,
    shapes: Sequence[tuple[int, ...]],
    out: tuple[int, ...],
    attributes: dict[str, Any],
    expected: int,
) -> None:
    names = [f"x{index}" for index in range(len(shapes))]
    node = helper.make_node(op, names, ["y"], **attributes)
    sizes = dict(zip(names, shapes, strict=True)) | {"y": out}
    assert macs(Program((node,), {}, sizes, frozenset(), {}, (), 8), node) == expected


def test_graphs_of_an_old_opset_get_one_with_ranges_for_each_channel(tmp_path: Path) -> None:
    made = prepared(old_opset(tmp_path / "net.onnx").read_bytes())
    assert {opset.domain: opset.version for opset in made.opset_import}[""] == 13


def test_tokens_that_are_joined_have_no_channels_to_align(tmp_path: Path) -> None:
    model = prepared(transformer(tmp_path / "net.onnx").read_bytes())
    made, _ = aligned(model, {})
    assert [n.op_type for n in made.graph.node] == [n.op_type for n in model.graph.node]
