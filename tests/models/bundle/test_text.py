"""Texts become the tokens of the smallest bucket that holds them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.small_bundles import LENGTHS, tokenizer_of, write_text_bundle
from models.bundle.bundle import Bundle, BundleError, load_bundle
from models.bundle.records import File
from models.bundle.text import TextReader
from models.bundle.text_input import TextInput

WORDS = ("[PAD]", "[UNK]", "[CLS]", "one", "two")


def target(*inputs: str) -> TextInput:
    given: dict[str, Any] = {"inputs": inputs} if inputs else {}
    tokenizer = File(file="tokenizer.json", sha256="0" * 64)
    return TextInput(tokenizer=tokenizer, length_buckets=(2, 4), **given)


def reader(padding: dict[str, Any] | None = None, *inputs: str) -> TextReader:
    content = json.loads(tokenizer_of(WORDS).to_str())
    content["padding"] = padding
    return TextReader(json.dumps(content).encode(), target(*inputs))


def test_a_text_has_the_smallest_length_that_holds_it_and_is_cut_at_the_largest() -> None:
    texts = ["One", "one TWO", "one two one", "two two one one", "three"]
    found = reader().read(texts)
    assert [text.ids for text in found] == [[2, 3], [2, 3, 4], [2, 3, 4, 3], [2, 4, 4, 3], [2, 1]]
    assert [text.length for text in found] == [2, 4, 4, 4, 2]
    assert [text.is_cut for text in found] == [False, False, False, True, False]


def test_padding_is_the_tokenizers() -> None:
    padding = {
        "strategy": {"Fixed": 7},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 9,
        "pad_type_id": 3,
        "pad_token": "[PAD]",
    }
    names = "attention_mask", "input_ids", "token_type_ids"
    made = reader(padding, *names)
    mask, ids, types = made.arrays(made.read(["one two", "one two one"]), 4)
    assert mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert ids.tolist() == [[9, 2, 3, 4], [2, 3, 4, 3]]
    assert types.tolist() == [[3, 0, 0, 0], [0, 0, 0, 0]]
    plain = reader()
    ids, mask = plain.arrays(plain.read(["one"]), 4)
    assert (ids.tolist(), mask.tolist()) == ([[2, 3, 0, 0]], [[1, 1, 0, 0]])
    assert ids.dtype == mask.dtype == np.int64


def test_a_tokenizer_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be used"):
        TextReader(b"{}", target())
    short = target().model_copy(update={"length_buckets": (1,)})
    with pytest.raises(BundleError, match="length 1 leaves no room"):
        TextReader(tokenizer_of(WORDS).to_str().encode(), short)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load_bundle(write_text_bundle(tmp_path_factory.mktemp("zoo")))


def test_a_bundle_of_texts_is_read_whole(bundle: Bundle) -> None:
    takes = bundle.manifest.input
    assert isinstance(takes, TextInput)
    assert bundle.tokenizer == (bundle.path / "tokenizer.json").read_bytes()
    assert [costs.length for costs in bundle.cost.shorter] == [4, 8]
    assert bundle.manifest.segments[0].macs_by_length == {4: 12, 8: 24, 16: 48}
    assert bundle.manifest.segments[0].macs_of(8) == 24
    shorter = bundle.cost.of_length(8)
    assert (shorter.segments, shorter.shorter) == (bundle.cost.shorter[1].segments, ())
    assert bundle.cost.of_length(16).segments == bundle.cost.segments


def edited(bundle: Bundle, **input_: object) -> dict[str, Any]:
    manifest: dict[str, Any] = bundle.manifest.model_dump(mode="json")
    manifest["input"] |= input_
    return manifest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"length_buckets": [8, 4]}, "length_buckets must rise"),
        ({"length_buckets": [4, 8]}, "must have macs_by_length of [4, 8]"),
        ({"inputs": ["attention_mask", "input_ids"]}, "segment_1.onnx takes input_ids"),
        ({"inputs": ["attention_mask"]}, "inputs must have input_ids"),
        ({"kind": "sound"}, "'image', 'text', 'tensor'"),
    ],
)
def test_a_bundle_that_says_otherwise_is_refused(
    bundle: Bundle, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(edited(bundle, **change)))
    with pytest.raises(BundleError) as refused:
        load_bundle(tmp_path)
    assert reason in str(refused.value)


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    path = write_text_bundle(tmp_path)
    (path / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json is damaged"):
        load_bundle(path)
    assert len(LENGTHS) == 3
