"""Text classifiers of the transformers library with exits: tiny, random, saved to a folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from models.bundle.records import File
from models.bundle.runner import SegmentRunner
from models.bundle.text_input import TextInput
from models.nets.multi_exit import MultiExitNet, NetError
from models.nets.presets import build
from training.exporting.graphs import PARITY_TOLERANCE, export_graphs
from training.fronts import TextFront

VOCABULARY, LONGEST = 40, 16
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": LONGEST,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": SIZES,
    "Roberta": SIZES | {"max_position_embeddings": LONGEST + 2, "pad_token_id": 1},
    "DistilBert": {
        **{k: SIZES[k] for k in ("vocab_size", "max_position_embeddings")},
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
    },
}


def saved(kind: str, directory: Path, **changes: int) -> Any:  # noqa: ANN401
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(num_labels=5, **CONFIGS[kind] | changes)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    model.save_pretrained(directory)
    return model


def texts(pad: int) -> list[Tensor]:
    """Of 11, 4 and 1 tokens."""
    mask = (torch.arange(11) < torch.tensor([[11], [4], [1]])).long()
    return [torch.where(mask == 1, torch.randint(3, VOCABULARY, (3, 11)), pad), mask]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_last_exit_is_the_model_itself(kind: str, tmp_path: Path) -> None:
    model = saved(kind, tmp_path)
    net = build(f"transformers:{tmp_path}", (VOCABULARY, LONGEST), 5).eval()
    ids, mask = texts(model.config.pad_token_id)
    with torch.no_grad():
        logits = net(ids, mask)
        expected = model(input_ids=ids, attention_mask=mask).logits
    assert [tuple(z.shape) for z in logits] == [(3, 5)] * 2
    assert torch.allclose(logits[-1], expected, atol=1e-5)
    assert_exported_alike(net, [ids, mask])


def assert_exported_alike(net: MultiExitNet, inputs: list[Tensor]) -> None:
    target = TextInput(
        tokenizer=File(file="tokenizer.json", sha256="0" * 64), length_buckets=(6, LONGEST)
    )
    graphs = export_graphs(net, inputs, TextFront(target))
    some = [x[1:, :6].contiguous() for x in inputs]
    with torch.no_grad():
        expected = net(*some)
    found = SegmentRunner(*graphs).run([x.numpy() for x in some])
    for theirs, ours in zip(expected, found, strict=True):
        assert ours == pytest.approx(theirs.numpy(), abs=PARITY_TOLERANCE / 10)


def test_exits_go_where_they_are_asked_for(tmp_path: Path) -> None:
    saved("Bert", tmp_path, num_hidden_layers=3)
    net = build(f"transformers:{tmp_path}@1", (VOCABULARY, LONGEST), 7)
    assert [len(list(segment.children())) for segment in net.segments] == [2, 2]
    assert [z.shape for z in net(*texts(0))] == [(3, 7)] * 2
    with pytest.raises(NetError, match=r"^exits go after layers 1 to 3, not 4$"):
        build(f"transformers:{tmp_path}@4", (VOCABULARY, LONGEST), 5)


def test_a_directory_may_be_at_home_and_have_an_at_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    saved("Bert", tmp_path / "jane@example.org" / "bert", num_hidden_layers=3)
    for chosen, num_exits in (("", 3), ("@1", 2)):
        name = f"transformers:~/jane@example.org/bert{chosen}"
        assert build(name, (VOCABULARY, LONGEST), 5).num_exits == num_exits


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((VOCABULARY + 1, LONGEST), "knows 40 tokens, the tokenizer has 41"),
        ((VOCABULARY, LONGEST + 1), "takes 16 tokens at most: --set max_tokens=16"),
    ],
)
def test_texts_that_do_not_fit_are_refused(
    shape: tuple[int, int], message: str, tmp_path: Path
) -> None:
    saved("Bert", tmp_path)
    with pytest.raises(NetError, match=message):
        build(f"transformers:{tmp_path}", shape, 5)
