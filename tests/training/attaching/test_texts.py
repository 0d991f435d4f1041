"""Exits on an exported text classifier: BERT-shaped, small, with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers
from torch import Tensor, nn

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.runner import SegmentRunner
from models.bundle.text import TextReader
from models.bundle.text_input import TextInput
from tests.training.test_texts import write_texts
from training import tokenizing
from training.attaching.attach import attach
from training.attaching.errors import AttachError
from training.attaching.heads import Recipe
from training.attaching.order import Order
from training.attaching.passes import run_all
from training.attaching.read import Options
from training.data.columns import Wanted
from training.data.opening import find_records

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning", "ignore:# The axis")
NAMES = ("input_ids", "attention_mask", "token_type_ids")
LONGEST = 24


class Logits(nn.Module):
    """The classifier's logits from its three inputs, in order."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        given = dict(zip(NAMES, (input_ids, attention_mask, token_type_ids), strict=True))
        logits: Tensor = self.model(**given).logits
        return logits


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two labels as an ONNX file, its tokenizer and texts beside it."""
    directory = tmp_path_factory.mktemp("bert")
    write_texts(directory)
    found = find_records(str(directory), Wanted())
    assert found is not None
    (directory / "tokenizer.json").write_text(tokenizing.learned(found.train.texts, 100))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
        id2label={0: "no", 1: "yes"},
    )
    model = Logits(transformers.BertForSequenceClassification(config)).eval()
    ids = torch.randint(2, 100, (2, 9))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=LONGEST)}
    program = torch.onnx.export(
        model,
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        input_names=list(NAMES),
        output_names=["logits"],
        dynamic_shapes=dict.fromkeys(NAMES, axes),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(directory / "bert.onnx")
    return directory / "bert.onnx"


def order_of(model: Path, **changes: Any) -> Order:  # noqa: ANN401
    values: dict[str, Any] = {
        "model": model,
        "data": str(model.parent),
        "name": "bert",
        "version": 1,
        "zoo": model.parent / "zoo",
        "num_exits": 2,
        "cache": model.parent / "cache",
        "recipe": Recipe(epochs=2, min_steps=20),
    }
    return Order(**values | changes)


@pytest.fixture(scope="module")
def bundle(exported: Path) -> Bundle:
    return load_bundle(attach(order_of(exported)))


def test_the_last_exit_is_the_network_itself_at_any_length(bundle: Bundle, exported: Path) -> None:
    takes, manifest = bundle.manifest.input, bundle.manifest
    assert isinstance(takes, TextInput)
    assert takes.inputs == NAMES
    reader = TextReader(bundle.tokenizer, takes)
    texts = reader.read(["play the song", "what is my balance please now show me the card and a"])
    whole = ort.InferenceSession(exported)
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    for length in takes.length_buckets[-2:]:
        arrays = reader.arrays(texts, length)
        (expected,) = whole.run(None, dict(zip(NAMES, arrays, strict=True)))
        assert run_all(runner, arrays)[-1] == pytest.approx(expected, abs=1e-4)


def test_hidden_state_and_mask_cross_the_cut(bundle: Bundle) -> None:
    first, last = bundle.manifest.segments
    crossing = [(tensor.dtype, tensor.shape) for tensor in first.outputs]
    assert crossing == [("float32", (-1, -2, 16)), ("int64", (-1, -2))]
    assert 0 < first.macs_by_length[first_length(bundle)] < first.macs < last.macs * 3


def first_length(bundle: Bundle) -> int:
    return bundle.manifest.input.length_buckets[0]


def test_padding_changes_no_exit(bundle: Bundle) -> None:
    takes, manifest = bundle.manifest.input, bundle.manifest
    assert isinstance(takes, TextInput)
    reader = TextReader(bundle.tokenizer, takes)
    texts = reader.read(["play the song"])
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    short, long = (run_all(runner, reader.arrays(texts, takes.length_buckets[k])) for k in (0, -1))
    for ours, theirs in zip(short, long, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
        assert np.isfinite(ours).all()


def test_what_cannot_be_attached_is_refused_in_one_sentence(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 9
    onnx.save(model, tmp_path / "fixed.onnx")
    (tmp_path / "tokenizer.json").write_text((exported.parent / "tokenizer.json").read_text())
    with pytest.raises(AttachError, match="has a fixed batch or length; export it with dynamic"):
        attach(order_of(tmp_path / "fixed.onnx", name="other"))
    without = Options(tokenizer=tmp_path / "none.json")
    with pytest.raises(AttachError, match=r"there is no .*none.json; name the network's tokenizer"):
        attach(order_of(exported, name="other", options=without))
    with pytest.raises(AttachError, match="has no texts"):
        attach(order_of(exported, name="other", data="digits"))
