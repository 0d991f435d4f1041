"""Texts and numbers from tables: which columns, which splits, and what is refused."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data import DataError
from training.data.columns import Wanted
from training.data.opening import find_records, find_test

TABLE: dict[str, list[Any]] = {
    "id": [1, 2, 3, 4],
    "utterance": ["what is my balance", "null", "play a song", "louder"],
    "intent": ["money", "money", "music", "music"],
}
NUMBERS: dict[str, list[Any]] = {
    "width": [1.5, 2.5, 3.5, 4.5],
    "height": [1, 2, 3, 4],
    "kind": ["a", "b", "a", "b"],
}


def write(path: Path, table: dict[str, list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: Sequence[dict[str, Any]] = [
        dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)
    ]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            separator = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(table), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_texts_and_labels_are_found_in_every_format(suffix: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.{suffix}", TABLE)
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert found.train.texts == found.test.texts == tuple(TABLE["utterance"])
    assert found.train.names == ("money", "music")
    assert found.train.labels.tolist() == [0, 0, 1, 1]
    assert "texts are column 'utterance', labels are column 'intent'" in found.notes[0]


def test_a_validation_split_follows_the_training_rows(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", TABLE)
    write(tmp_path / "validation.csv", {name: v[2:] for name, v in TABLE.items()})
    write(tmp_path / "test.csv", {name: v[:1] for name, v in TABLE.items()})
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert (len(found.train.labels), found.train.num_apart) == (6, 2)
    assert found.train.texts[4:] == ("play a song", "louder")
    assert found.test.labels.tolist() == [0]
    assert found.notes[-1].endswith("for selection and calibration only")
    test = find_test(str(tmp_path), Wanted(), found.train.names)
    assert test is not None
    assert test.texts == found.test.texts


def test_a_single_file_gives_a_fifth_of_each_class_for_testing(tmp_path: Path) -> None:
    table = {name: values * 5 for name, values in TABLE.items()}
    path = write(tmp_path / "all.jsonl", table)
    found = find_records(str(path), Wanted())
    assert found is not None
    assert np.bincount(found.train.labels).tolist() == [8, 8]
    assert np.bincount(found.test.labels).tolist() == [2, 2]


def test_numbers_are_all_columns_of_numbers_or_those_named(tmp_path: Path) -> None:
    lists = NUMBERS | {"vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]}
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", lists)
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert found.train.values is not None
    assert list(found.train.values) == ["width", "height", "vector"]
    assert found.train.table[1].tolist() == [2.5, 2.0, 3.0, 4.0]
    assert found.train.labels.tolist() == [0, 1, 0, 1]
    some = find_records(str(tmp_path), Wanted(numbers=("height",), label="kind"))
    assert some is not None
    assert some.train.table.tolist() == [[1.0], [2.0], [3.0], [4.0]]


@pytest.mark.parametrize(
    ("table", "wanted", "message"),
    [
        (TABLE, Wanted(text="word"), "has no column 'word' among id, utterance, intent"),
        (TABLE, Wanted(text="id"), "column 'id' of .* has no texts"),
        (TABLE, Wanted(numbers=("utterance",)), "column 'utterance' of .* has no numbers"),
        (NUMBERS, Wanted(text="kind", numbers=("width",)), "exclude each other"),
        ({"kind": ["a", "b"]}, Wanted(), "neither images, texts nor numbers"),
        (TABLE | {"utterance": ["a b c", "", "d e f", "g"]}, Wanted(), "1 rows of .* no utterance"),
        (NUMBERS | {"width": [1.0, None, 2.0, 3.0]}, Wanted(), "no finite number in 'width'"),
        (NUMBERS | {"width": [1.0, float("inf"), 2.0, 3.0]}, Wanted(), "no finite number"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(
    table: dict[str, list[Any]], wanted: Wanted, message: str, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", table)
    with pytest.raises(DataError, match=message):
        find_records(str(tmp_path), wanted)


def test_columns_of_images_are_left_to_images(tmp_path: Path) -> None:
    assert find_records("digits", Wanted()) is None
    (tmp_path / "train" / "ant").mkdir(parents=True)
    assert find_records(str(tmp_path), Wanted()) is None
    with pytest.raises(DataError, match="has no columns: it is no table"):
        find_records("digits", Wanted(text="text"))
