"""Texts to send, and rivals that answer them as the bundle's graphs do, without padding."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import media_type
from benchmarks.loading import traffic
from benchmarks.rivals.exits import Exits
from benchmarks.rivals.uncut import Uncut
from benchmarks.small_bundles import LABELS, LENGTHS, WORDS, write_text_bundle
from models.bundle.bundle import load_bundle
from models.bundle.runner import SegmentRunner
from models.bundle.text import TextReader
from models.bundle.text_input import TextInput
from tests.benchmarks.conftest import one


def write_texts(directory: Path) -> None:
    """Texts with one right word or two, and one too long; the split for training is short."""
    rows = [
        {"text": f"what is my {' '.join(words[:votes])}", "label": label}
        for label, words in WORDS.items()
        for votes in (1, 2)
    ]
    rows.append({"text": f"the {30 * 'rain '}", "label": "weather"})
    for split, some in (("train", rows[:2]), ("test", rows)):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (directory / f"{split}.jsonl").write_text(lines)


def test_rivals_answer_texts_as_the_graphs_do(tmp_path: Path) -> None:
    write_texts(tmp_path)
    asked = traffic(str(tmp_path), 100, tmp_path)
    bundle = load_bundle(write_text_bundle(tmp_path / "zoo"))
    takes = bundle.manifest.input
    assert isinstance(takes, TextInput)
    reader = TextReader(bundle.tokenizer, takes)
    runner = SegmentRunner(bundle.manifest.segments, bundle.manifest.exit_heads, bundle.graphs)
    naive, plain = Exits(bundle), Uncut(bundle)
    exits, lengths = set(), set()
    for file, label in zip(asked.files, asked.images.labels.tolist(), strict=True):
        assert media_type(file) == "text/plain"
        (tokens,) = reader.read([file.read_text()])
        arrays = reader.arrays([tokens], tokens.length)
        row = naive.read(file.read_bytes())
        lengths.add(row["input_ids"].shape[1])
        index, exit, confidence = one(bundle, arrays)
        said = naive.answer(row)
        assert (said["index"], said["exit"]) == (index, exit) == (label, said["exit"])
        assert said["confidence"] == pytest.approx(confidence, abs=1e-5)
        exits.add(exit)
        last = runner.run(arrays)[-1][0]
        whole = plain.answer(plain.read(file.read_bytes()))
        assert whole["label"] == LABELS[last.argmax()]
        expected = 1 / np.exp(last - last.max()).sum()
        assert whole["confidence"] == pytest.approx(expected, abs=1e-5)
    assert exits == {1, 2}
    assert lengths == {5, 6, LENGTHS[-1]}, "not padded, cut at the longest"
