"""Texts as a request's rows: one array for each length bucket, in the request's order."""

import json
from pathlib import Path

import pytest

from benchmarks.small_bundles import LENGTHS, write_text_bundle
from models.bundle.bundle import load_bundle
from models.bundle.text import TextReader
from models.bundle.text_input import TextInput
from server.errors import BadParameter, TextTooLong
from server.http.texts import SMALL_CHARACTERS, Texts, text_of


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> TextReader:
    bundle = load_bundle(write_text_bundle(tmp_path_factory.mktemp("zoo")))
    assert isinstance(bundle.manifest.input, TextInput)
    return TextReader(bundle.tokenizer, bundle.manifest.input)


def texts(reader: TextReader, *contents: str, max_characters: int = 10_000) -> Texts:
    return Texts(contents, [f"texts.{n}" for n in range(len(contents))], reader, max_characters)


def test_rows_of_one_length_share_an_array(reader: TextReader) -> None:
    rows = texts(reader, "rain", "rain " * 5, "sun", "sun " * 30).decode()
    assert [row.length for row in rows] == [4, 8, 4, 16]
    assert [row.is_cut for row in rows] == [False, False, False, True]
    assert rows[0].arrays is rows[2].arrays
    ids, mask = rows[2].arrays
    assert (ids.shape, rows[2].index) == ((2, 4), 1)
    assert mask.tolist() == [[1, 1, 0, 0]] * 2


def test_the_length_is_told_beforehand_by_the_longest(reader: TextReader) -> None:
    for num_characters, expected in ((8, 4), (20, 8), (60, 16), (9000, 16)):
        assert texts(reader, "a", "a" * num_characters).length == expected
    assert LENGTHS == (4, 8, 16)


def test_long_texts_are_read_on_a_thread(reader: TextReader) -> None:
    assert texts(reader, "rain").decode_here() is not None
    assert texts(reader, "rain", "r" * SMALL_CHARACTERS).decode_here() is None


def test_an_error_names_the_text(reader: TextReader) -> None:
    for bad in ("", "a\0", "a\ud800"):
        with pytest.raises(BadParameter, match=r"texts\.1"):
            texts(reader, "rain", bad).decode()
    with pytest.raises(TextTooLong, match=r"texts\.1: 11 characters; at most 10"):
        texts(reader, "rain", "r" * 11, max_characters=10).decode()
    with pytest.raises(BadParameter, match="text: is not UTF-8, at byte 1"):
        text_of(b"a\xff", "text")
    assert text_of("\ufeffé".encode(), "text") == "é"


def test_a_text_that_the_tokenizer_cannot_say_is_named(tmp_path: Path) -> None:
    path = write_text_bundle(tmp_path)
    takes = load_bundle(path).manifest.input
    assert isinstance(takes, TextInput)
    content = json.loads((path / takes.tokenizer.file).read_text())
    content["model"]["unk_token"] = "[NONE]"
    with pytest.raises(BadParameter, match=r"texts\.0: cannot be tokenized"):
        texts(TextReader(json.dumps(content).encode(), takes), "other").decode()
