"""The exported graphs against torch, and what they hold."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from models.bundle.bundle import Bundle
from models.bundle.runner import SegmentRunner
from models.bundle.tensor_input import RowTensor, TensorInput
from models.nets.multi_exit import MultiExitNet
from models.nets.presets import build
from training import checkpoint
from training.augment import normalised
from training.data import load_images
from training.evaluation.evaluate import all_logits
from training.exporting.graphs import (
    PARITY_TOLERANCE,
    ExportError,
    check_independence,
    check_parity,
    export_graphs,
    macs_of,
)
from training.fronts import front_of
from training.run import BEST


@pytest.fixture(scope="module")
def trained(digits_run: Path) -> MultiExitNet:
    """The network of the run's best checkpoint, ready to predict."""
    saved = checkpoint.load(digits_run / BEST)
    net = build(saved.config.net, (8, 8, 1), 10)
    net.load_state_dict(saved.net)
    return net.eval()


@pytest.fixture(scope="module")
def models(digits_bundle: Bundle) -> dict[str, ModelProto]:
    return {
        file: onnx.load_model_from_string(graph) for file, graph in digits_bundle.graphs.items()
    }


@pytest.mark.parametrize("rows", [1, 2, 7, 33, 450])
def test_every_exit_agrees_with_torch_at_any_batch_size(
    rows: int, trained: MultiExitNet, digits_bundle: Bundle, digits_run: Path
) -> None:
    saved = checkpoint.load(digits_run / BEST)
    images = load_images("digits", "test").images[:rows]
    with torch.no_grad():
        expected = trained(normalised(images, torch.tensor(saved.mean), torch.tensor(saved.std)))
    manifest = digits_bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, digits_bundle.graphs)
    actual = all_logits(runner, images.numpy(), lambda _: None)
    for theirs, ours in zip(expected, actual, strict=True):
        assert ours.shape == (rows, 10)
        assert ours == pytest.approx(theirs.numpy(), abs=PARITY_TOLERANCE)
        assert np.abs(ours).max() > 1  # a comparison of zeros would prove nothing


def test_graphs_hold_all_their_weights_and_valid_onnx(models: dict[str, ModelProto]) -> None:
    for model in models.values():
        onnx.checker.check_model(model, full_check=True)
        for tensor in model.graph.initializer:
            assert tensor.data_location == TensorProto.DEFAULT
            assert not tensor.external_data


def test_every_batch_is_free_and_every_other_dimension_fixed(
    models: dict[str, ModelProto],
) -> None:
    for model in models.values():
        for value in (*model.graph.input, *model.graph.output):
            batch, *others = value.type.tensor_type.shape.dim
            assert batch.dim_param
            assert all(dimension.dim_value > 0 for dimension in others)


def test_images_go_in_as_bytes_and_no_other_tensor_does(models: dict[str, ModelProto]) -> None:
    for file, model in models.items():
        is_first = file == "segment_1.onnx"
        for value in model.graph.input:
            tensor = value.type.tensor_type
            assert (tensor.elem_type == TensorProto.UINT8) == is_first
            if is_first:
                assert [d.dim_value for d in tensor.shape.dim[1:]] == [8, 8, 1]


def test_graphs_tell_nothing_of_where_they_were_made(digits_bundle: Bundle) -> None:
    root = str(Path(__file__).parents[2])
    for graph in digits_bundle.graphs.values():
        for trace in (root, sys.prefix, str(Path.home()), "site-packages", "models/nets"):
            assert trace.encode() not in graph


def test_a_column_may_be_called_as_a_value_inside() -> None:
    """torch names the values of a graph for the operations that give them."""
    names = ("cat", "sub", "mul", "linear", "add")
    target = TensorInput(
        tensors=tuple(RowTensor(name=name, dtype="float32", shape=()) for name in names)
    )
    net = build("mlp", [len(names)], 3).eval()
    inputs = list(torch.randn(len(names), 4))
    front = front_of(target, torch.zeros(len(names)), torch.ones(len(names)))
    segments, heads, content = export_graphs(net, inputs, front)
    assert tuple(tensor.name for tensor in segments[0].inputs) == names
    with torch.no_grad():
        expected = net(*front.prepared(inputs))
    runner = SegmentRunner(segments, heads, content)
    check_parity(expected, runner.run([x.numpy() for x in inputs]))


def test_macs_and_parameters_are_those_of_the_network(
    trained: MultiExitNet, digits_bundle: Bundle
) -> None:
    def macs(up_to: int) -> int:
        net = MultiExitNet(list(trained.segments)[:up_to], list(trained.heads)[:up_to])
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, 1, 8, 8))
        total: int = counter.get_total_flops()
        return total // 2

    def num_parameters(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    manifest = digits_bundle.manifest
    graphs = list(zip(manifest.segments, manifest.exit_heads, strict=True))
    pieces = trained.split()
    for k in range(1, trained.num_exits + 1):
        assert sum(s.macs + h.macs for s, h in graphs[:k]) == macs(k)
        for graph, piece in zip(graphs[k - 1], pieces[k - 1], strict=True):
            assert graph.parameters == num_parameters(piece)


def test_macs_of_the_first_head_by_hand(digits_bundle: Bundle) -> None:
    """64 channels at 2x2, two 3x3 convolutions of width 32 and stride 2, a linear layer."""
    assert digits_bundle.manifest.exit_heads[0].macs == 64 * 32 * 9 + 32 * 32 * 9 + 32 * 10


class Attention(nn.Module):
    """Attention of a row to itself by torch's fused operation."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x)


WIDTH, INNER, TOKENS = 8, 16, 5


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (Attention(), 2 * TOKENS * TOKENS * WIDTH),
        (
            nn.TransformerEncoderLayer(WIDTH, 2, INNER, batch_first=True),
            TOKENS * (3 * WIDTH * WIDTH + WIDTH * WIDTH + 2 * WIDTH * INNER)
            + 2 * TOKENS * TOKENS * WIDTH,
        ),
        (nn.Conv1d(TOKENS, 3, 3), 3 * (WIDTH - 2) * TOKENS * 3),
        (nn.LSTM(WIDTH, INNER, batch_first=True), TOKENS * 4 * INNER * (WIDTH + INNER)),
        (nn.GRU(WIDTH, INNER, batch_first=True), TOKENS * 3 * INNER * (WIDTH + INNER)),
    ],
)
def test_macs_of_fused_layers_by_hand(layer: nn.Module, macs: int) -> None:
    """Scores and weighted values take tokens x tokens x width MACs each."""
    assert macs_of(layer.eval(), [torch.zeros(1, TOKENS, WIDTH)]) == macs
    assert torch.backends.mha.get_fastpath_enabled()


def test_parity_allows_rounding_and_nothing_more() -> None:
    expected = [torch.zeros(2, 3), torch.ones(2, 3)]
    near = [np.full((2, 3), 5e-4, np.float32), np.full((2, 3), 1.0009, np.float32)]
    assert check_parity(expected, near) == pytest.approx(9e-4, rel=1e-3)
    far = near[1].copy()
    far[1, 2] = 1.0011
    with pytest.raises(ExportError, match=r"^exit 2 differs from torch by 0.0011 in a logit"):
        check_parity(expected, [near[0], far])
    far[1, 2] = np.nan
    with pytest.raises(ExportError, match=r"^exit 2 differs from torch by nan in a logit"):
        check_parity(expected, [near[0], far])


def test_images_are_compared_alone_in_company_and_in_another_order(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = digits_bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, digits_bundle.graphs)
    images = load_images("digits", "test").images[:8].numpy()
    assert check_independence(runner, [images]) < PARITY_TOLERANCE
    run_head = runner.run_head

    def first_row_differs(exit: int, features: list[np.ndarray]) -> np.ndarray:
        logits = run_head(exit, features)
        if exit == 2 and len(logits) > 1:
            logits[0] += 0.5
        return logits

    monkeypatch.setattr(runner, "run_head", first_row_differs)
    with pytest.raises(ExportError, match=r"^exit 2 answers a row otherwise when others are"):
        check_independence(runner, [images])
