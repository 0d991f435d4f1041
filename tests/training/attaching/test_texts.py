"""Exits on an exported text classifier: BERT-shaped, small, with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers
from onnx import TensorProto, helper
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.bundle.bundle import Bundle, load_bundle
from models.bundle.runner import SegmentRunner
from models.bundle.text import TextReader
from models.bundle.text_input import TextInput
from tests.training.attaching.networks import Net
from tests.training.test_texts import write_texts
from training import tokenizing
from training.attaching.answers import own_scores
from training.attaching.attach import attach
from training.attaching.cut import places
from training.attaching.errors import AttachError
from training.attaching.heads import Recipe
from training.attaching.order import Order
from training.attaching.pooling import pool_graph
from training.attaching.read import Options, read
from training.attaching.text_program import text_program
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


class CausalLogits(Logits):
    """The same from two inputs."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits
        return logits


def saved(directory: Path, model: nn.Module, names: tuple[str, ...]) -> Path:
    """A network as an ONNX file, texts and a tokenizer beside it."""
    write_texts(directory)
    found = find_records(str(directory), Wanted())
    assert found is not None
    (directory / "tokenizer.json").write_text(tokenizing.learned(found.train.texts, 100))
    ids = torch.randint(2, 100, (2, 9))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=LONGEST)}
    program = torch.onnx.export(
        model.eval(),
        tuple(given.get(name, torch.zeros_like(ids)) for name in names),
        input_names=list(names),
        output_names=["logits"],
        dynamic_shapes=dict.fromkeys(names, axes),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(directory / "net.onnx")
    return directory / "net.onnx"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two labels."""
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
    model = Logits(transformers.BertForSequenceClassification(config))
    return saved(tmp_path_factory.mktemp("bert"), model, NAMES)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that reads a text's last token, and finds it by a padding of its own."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
        pad_token_id=99,
    )
    model = CausalLogits(transformers.Qwen2ForSequenceClassification(config))  # type: ignore[no-untyped-call]
    return saved(tmp_path_factory.mktemp("decoder"), model, NAMES[:2])


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
        assert runner.run(arrays)[-1] == pytest.approx(expected, abs=1e-4)


def test_hidden_state_and_mask_cross_the_cut(bundle: Bundle) -> None:
    first, last = bundle.manifest.segments
    crossing = [(tensor.dtype, tensor.shape) for tensor in first.outputs]
    assert crossing == [("float32", (-1, -2, 16)), ("int64", (-1, -2))]
    assert 0 < first.macs_by_length[first_length(bundle)] < first.macs < last.macs * 3


def test_a_network_that_reads_the_last_token_finds_it_by_the_mask(decoder: Path) -> None:
    """Its own padding, 99, is not the tokenizer's."""
    made = load_bundle(attach(order_of(decoder)))
    takes, manifest = made.manifest.input, made.manifest
    assert isinstance(takes, TextInput)
    handed_on = manifest.segments[0].outputs
    assert [t.name for t in handed_on if t.dtype == "int64"] == ["attention_mask_1"]
    reader = TextReader(made.tokenizer, takes)
    texts = reader.read(["play the song", "what is my balance please now show me the card"])
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, made.graphs)
    whole = ort.InferenceSession(decoder)
    for length in takes.length_buckets[-2:]:
        ids, mask = reader.arrays(texts, length)
        assert ids.min() == 0 or mask.all()
        given = {"input_ids": np.where(mask, ids, 99), "attention_mask": mask}
        (expected,) = whole.run(None, given)
        assert runner.run([ids, mask])[-1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("network", "side", "chosen"), [
    ("exported", "right", (0, 0)), ("exported", "left", (2, 0)),
    ("decoder", "right", (3, 5)), ("decoder", "left", (5, 5)),
])  # fmt: skip
def test_a_head_sees_the_mean_and_the_token_that_sees_most(
    network: str, side: str, chosen: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    """The first of six places or, of a causal network, the last; padding is left out."""
    path = request.getfixturevalue(network)
    cut_up = text_program(read(path, Options()), 100, (6,))
    place = next(place for place in places(cut_up) if len(place.tensors) == 1 and place.share > 0.3)
    (name,) = place.tensors
    mask = np.ones((2, 6), np.int64)
    mask[0, slice(4, None) if side == "right" else slice(2)] = 0
    states = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
    session = ort.InferenceSession(pool_graph(cut_up, place, 1).content)
    (pooled,) = session.run(None, {name: states, "attention_mask_1": mask})
    for row in range(2):
        mean = states[row, mask[row] == 1].mean(0)
        assert pooled[row] == pytest.approx([*mean, *states[row, chosen[row]]], abs=1e-6)


def reader_of_the_last_place(directory: Path) -> Path:
    """As transformers writes a causal classifier without a padding token."""
    write_texts(directory)
    found = find_records(str(directory), Wanted())
    assert found is not None
    (directory / "tokenizer.json").write_text(tokenizing.learned(found.train.texts, 100))
    net = Net()
    x = net.add("Gather", [net.weight(100, 16), "input_ids"])
    for _ in range(3):
        x = net.add("Add", [x, net.add("Relu", [net.add("MatMul", [x, net.weight(16, 16)])])])
    last = net.add("Gather", [x, net.constant(np.array(-1))], axis=1)
    output = net.add("Gemm", [last, net.weight(16, 2)])
    graph = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "l"]) for n in NAMES[:2]],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["b", 2])],
        net.weights,
    )
    opsets = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), directory / "net.onnx")
    return directory / "net.onnx"


def test_a_network_whose_scores_change_with_padding_is_refused(tmp_path: Path) -> None:
    path = reader_of_the_last_place(tmp_path)
    with pytest.raises(AttachError, match="scores a text otherwise with more padding; export it"):
        attach(order_of(path))
    tokenizer = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
    tokenizer.enable_padding(direction="left", pad_token="[PAD]")
    tokenizer.save(str(path.parent / "tokenizer.json"))
    assert load_bundle(attach(order_of(path))).manifest.name == "bert"


def test_texts_that_hold_what_a_network_takes_for_padding_are_refused(decoder: Path) -> None:
    network = read(decoder, Options())
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    scores = own_scores(network, [np.array([[5, 6, 7], [5, 6, 99]]), mask])
    assert scores.shape == (2, 2)
    with pytest.raises(AttachError, match="takes token 99 for padding, and texts hold it; export"):
        own_scores(network, [np.array([[5, 6, 7], [5, 99, 0]]), mask])


def first_length(bundle: Bundle) -> int:
    return bundle.manifest.input.length_buckets[0]


def test_padding_changes_no_exit(bundle: Bundle) -> None:
    takes, manifest = bundle.manifest.input, bundle.manifest
    assert isinstance(takes, TextInput)
    reader = TextReader(bundle.tokenizer, takes)
    texts = reader.read(["play the song"])
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
    short, long = (runner.run(reader.arrays(texts, takes.length_buckets[k])) for k in (0, -1))
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
