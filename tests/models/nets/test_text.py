"""Small text encoders: what padding must not do, and what a row costs."""

import pytest
import torch
from torch import Tensor

from models.bundle.records import File
from models.bundle.runner import SegmentRunner
from models.bundle.text_input import TextInput
from models.nets.text import TEXT_TINY, TextConfig, text_encoder
from training.exporting.graphs import PARITY_TOLERANCE, check_independence, export_graphs
from training.fronts import TextFront

SMALL = TextConfig(blocks=(1, 1), width=12, heads=3, pairs=32)
SHAPE = (20, 9)
TARGET = TextInput(
    tokenizer=File(file="tokenizer.json", sha256="0" * 64), length_buckets=(4, SHAPE[1])
)


@pytest.fixture
def inputs() -> list[Tensor]:
    """Three texts of 9, 3 and 0 tokens."""
    torch.manual_seed(0)
    mask = (torch.arange(9) < torch.tensor([[9], [3], [0]])).long()
    return [torch.randint(2, 20, (3, 9)) * mask, mask]


def test_padding_changes_no_answer(inputs: list[Tensor]) -> None:
    net = text_encoder(SMALL, SHAPE, 5).eval()
    ids, mask = inputs
    with torch.no_grad():
        expected = net(ids, mask)
        other = net(torch.where(mask == 1, ids, 7), mask)
        shorter = net(ids[1:, :4], mask[1:, :4])
    for padded, changed, cut in zip(expected, other, shorter, strict=True):
        assert padded.isfinite().all()
        assert torch.allclose(padded, changed, atol=1e-6)
        assert torch.allclose(padded[1:], cut, atol=1e-5)


def test_words_are_only_dropped_in_training(inputs: list[Tensor]) -> None:
    net = text_encoder(SMALL, SHAPE, 5).eval()
    assert torch.equal(net(*inputs)[0], net(*inputs)[0])
    net.train()
    assert not torch.equal(net(*inputs)[0], net(*inputs)[0])


def test_exported_graphs_take_any_batch_and_any_length(inputs: list[Tensor]) -> None:
    net = text_encoder(SMALL, SHAPE, 5).eval()
    segments, heads, content = export_graphs(net, inputs, TextFront(TARGET))
    runner = SegmentRunner(segments, heads, content)
    for rows, length in ((3, 9), (1, 4), (2, 3)):
        some = [x[-rows:, :length].contiguous() for x in inputs]
        with torch.no_grad():
            expected = net(*some)
        for theirs, ours in zip(expected, runner.run([x.numpy() for x in some]), strict=True):
            assert ours == pytest.approx(theirs.numpy(), abs=PARITY_TOLERANCE / 10)
    check_independence(runner, [x.numpy() for x in inputs])
    first = segments[0]
    assert [(t.name, t.dtype, t.shape) for t in first.outputs] == [
        ("features_1_0", "float32", (-1, -2, 12)),
        ("features_1_1", "int64", (-1, -2)),
    ]
    assert first.macs_by_length == {n: n * 12 * 12 * 12 + 2 * n * n * 12 for n in (4, 9)}
    assert first.macs == first.macs_by_length[9]
    assert heads[0].macs_by_length == {4: 2 * 12 * 5, 9: 2 * 12 * 5}


def test_a_gradient_reaches_every_weight(inputs: list[Tensor]) -> None:
    net = text_encoder(TEXT_TINY, SHAPE, 5)
    torch.stack(net(*inputs)).sum().backward()  # type: ignore[no-untyped-call]
    for weight in net.parameters():
        assert weight.grad is not None
        assert weight.grad.isfinite().all()
        assert weight.grad.any()
