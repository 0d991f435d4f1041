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

from tests.training.data.files import write_images
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


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_classes_of_one_row_in_a_single_file_are_named(suffix: str, tmp_path: Path) -> None:
    kinds = {"kind": ["a", "a", "b", "c"]}
    path = write(tmp_path / f"all.{suffix}", NUMBERS | kinds)
    message = f"^a fifth of every class of '{path}' tests, and these have one row: 'b', 'c'$"
    with pytest.raises(DataError, match=message):
        find_records(str(path), Wanted())


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


@pytest.mark.parametrize("values", [[0, 1, 2, 3], ["row 0", "row 1", "row 2", "row 3"]])
@pytest.mark.parametrize(
    ("column", "suffix", "name"),
    [
        ("", "csv", "Unnamed: 0"),
        ("Unnamed: 0", "tsv", "Unnamed: 0"),
        ("__index_level_0__", "parquet", "__index_level_0__"),
    ],
)
def test_a_column_that_numbers_or_names_the_rows_is_no_guess(
    column: str, suffix: str, name: str, values: list[Any], tmp_path: Path
) -> None:
    """In a table that is sorted by class it would tell the label."""
    for split in ("train", "test"):
        write(tmp_path / f"{split}.{suffix}", {column: values} | NUMBERS)
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert found.train.values is not None
    assert list(found.train.values) == ["width", "height"]
    assert found.notes[0].endswith(f"labels are column 'kind'; {name!r} left out")
    if values[0] == 0:
        named = find_records(str(tmp_path), Wanted(numbers=(name, "width")))
        assert named is not None
        assert named.train.table[3].tolist() == [3, 4.5]
        assert named.notes[0].endswith("; 'height' left out")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_that_are_not_used_are_named(suffix: str, tmp_path: Path) -> None:
    """One "?" for a missing number makes a column one of strings."""
    strings = {"sex": ["f", "m", "m", "f"], "age": ["31", "?", "40", "52"]}
    for split in ("train", "test"):
        write(tmp_path / f"{split}.{suffix}", strings | NUMBERS)
    found = find_records(str(tmp_path), Wanted(label="kind"))
    assert found is not None
    assert found.notes[0].endswith(
        "numbers are column 'width', 'height', labels are column 'kind'; 'sex', 'age' left out"
    )


def test_blanks_after_commas_and_around_labels_mean_nothing(tmp_path: Path) -> None:
    """The label of the second row was another class, and its text two fields."""
    lines = ['1, "so, it goes", money', "2, a b,money ", "3, c d,  music"]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("\n".join(["id, text, label", *lines]))
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert found.train.texts == ("so, it goes", "a b", "c d")
    assert (found.train.names, found.train.labels.tolist()) == (("money", "music"), [0, 0, 1])
    test = find_test(str(tmp_path), Wanted(), found.train.names)
    assert test is not None
    assert test.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("table", "wanted", "message"),
    [
        (TABLE, Wanted(text="word"), "has no column 'word' among id, utterance, intent"),
        (TABLE, Wanted(text="id"), "column 'id' of .* has no texts"),
        ({"text;label": ["a b c;0", "d e;1"]}, Wanted(), "no column of labels beside 'text;label'"),
        (TABLE, Wanted(numbers=("utterance",)), "column 'utterance' of .* has no numbers"),
        (NUMBERS, Wanted(text="kind", numbers=("width",)), "exclude each other"),
        ({"kind": ["a", "b"]}, Wanted(), "neither images, texts nor numbers"),
        (
            TABLE | {"utterance": ["a b c", "", "d e f", "g"]},
            Wanted(),
            "1 rows of .* have no utterance: rows 1$",
        ),
        (TABLE | {"intent": ["money", "", "music", None]}, Wanted(), "2 .* no intent: rows 1, 3$"),
        (NUMBERS | {"kind": [0, 1, None, 1]}, Wanted(label="kind"), "1 .* no kind: rows 2$"),
        (NUMBERS | {"width": [1.0, None, 2.0, None]}, Wanted(), "2 .* have no width: rows 1, 3$"),
        (NUMBERS | {"height": [1, 2, None, 3]}, Wanted(), "1 rows .* have no height: rows 2$"),
        (NUMBERS | {"width": [1.0, float("inf"), 2.0, 3.0]}, Wanted(), "no finite .*: rows 1$"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_what_cannot_be_used_is_refused_in_one_sentence(
    suffix: str, table: dict[str, list[Any]], wanted: Wanted, message: str, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.{suffix}", table)
    with pytest.raises(DataError, match=message):
        find_records(str(tmp_path), wanted)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("empty", ["train", "test"])
def test_a_split_without_rows_is_named(suffix: str, empty: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        table = {name: [] for name in TABLE} if split == empty else TABLE
        write(tmp_path / f"{split}.{suffix}", table)
    with pytest.raises(DataError, match=f"^the {empty} split of .* has no rows$"):
        find_records(str(tmp_path), Wanted())


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("cell", ["", " ", "NA", "nan", "null"])
def test_a_column_of_numbers_with_missing_cells_is_one_of_numbers(
    cell: str, suffix: str, tmp_path: Path
) -> None:
    """As strings it would be left out, or taken for the labels."""
    path = write(tmp_path / f"all.{suffix}", NUMBERS | {"width": [1.5, cell, 3, 4]})
    with pytest.raises(DataError, match=f"^1 rows of '{path}' have no width: rows 1$"):
        find_records(str(path), Wanted())


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_words_for_missing_numbers_are_texts_and_labels_among_strings(
    suffix: str, tmp_path: Path
) -> None:
    table = TABLE | {"utterance": ["NA", "null", "nan", "a b"], "intent": ["NA", "x", "x", "NA"]}
    for split in ("train", "test"):
        write(tmp_path / f"{split}.{suffix}", table)
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert found.train.texts == ("NA", "null", "nan", "a b")
    assert (found.train.names, found.train.labels.tolist()) == (("NA", "x"), [0, 1, 1, 0])


def test_numbers_in_csv_are_read_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text("a,b,yes,kind\n" + " 1,-2.5e-3,true,x\n07,0.1,false,y\n" * 5)
    found = find_records(str(path), Wanted())
    assert found is not None
    assert found.train.table[:2].tolist() == [[1, np.float32(-2.5e-3), 1], [7, np.float32(0.1), 0]]


@pytest.mark.parametrize(
    ("spelled", "names"),
    [
        (["007", "12", " 007", "12"], ("007", "12")),
        (["01", "1", "01", "1"], ("01", "1")),
        (["250.1", "250.10", "250.1", "250.10"], ("250.1", "250.10")),
        (["123456789012345678901", "123456789012345678902"] * 2, None),
        (["10", "9", "10", "9"], ("9", "10")),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_labels_in_csv_keep_their_spelling(
    suffix: str, spelled: list[str], names: tuple[str, ...] | None, tmp_path: Path
) -> None:
    """As numbers two of them could be one."""
    for split in ("train", "test", "validation"):
        write(tmp_path / f"{split}.{suffix}", NUMBERS | {"kind": spelled})
    found = find_records(str(tmp_path), Wanted(label="kind"))
    test = find_test(str(tmp_path), Wanted(label="kind"), None)
    assert found is not None
    assert test is not None
    assert found.train.names == test.names == (names or tuple(spelled[:2]))
    for rows in (found.train, found.test, test):
        named = [rows.names[label] for label in rows.labels[:4]]
        assert named == [cell.strip() for cell in spelled]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_labels_that_are_decimals_are_refused_as_numbers(suffix: str, tmp_path: Path) -> None:
    table = {name: values * 5 for name, values in NUMBERS.items()}
    path = write(tmp_path / f"all.{suffix}", table | {"kind": [1.0, 2.0] * 10})
    test = find_test(str(path), Wanted(label="kind"), None)
    assert test is not None
    assert test.names == ("1.0", "2.0")
    write(path, table | {"kind": [250.1, 250.2] * 10})
    message = f"^the labels of '{path}' are decimals, .*: write 'kind' as strings$"
    with pytest.raises(DataError, match=message):
        find_records(str(path), Wanted(label="kind"))


def test_a_quote_in_tsv_is_a_character_and_in_csv_it_quotes(tmp_path: Path) -> None:
    """A quote that begins a field would take in all rows up to the next one."""
    lines = ["text\tlabel", '"so it goes\ta', "plain words\tb", 'the "end"\ta', '"all"\tb']
    (tmp_path / "train.tsv").write_text("\n".join(lines))
    (tmp_path / "test.tsv").write_text("\n".join(lines[:2]))
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert found.train.texts == ('"so it goes', "plain words", 'the "end"', '"all"')
    assert found.train.labels.tolist() == [0, 1, 0, 1]
    assert found.test.texts == ('"so it goes',)
    table = TABLE | {"utterance": ['say "no", then', "two\nlines", "a b", "c d"]}
    path = write(tmp_path / "all.csv", {name: v * 5 for name, v in table.items()})
    found = find_records(str(path), Wanted())
    assert found is not None
    assert set(found.train.texts) == set(table["utterance"])
    path.write_text(path.read_text() + '9,"open,money\n')
    with pytest.raises(DataError, match=f"^cannot load '{path}': .*EOF inside string"):
        find_records(str(path), Wanted())


@pytest.mark.parametrize(
    "rows", ["a b,x,1\nc d,y,2\n" * 5, "a b,x\nc d,y,2\n" * 5, "a b,x,\nc d,y,\n" * 5]
)
@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_rows_with_more_fields_than_the_header_are_refused(
    rows: str, suffix: str, separator: str, tmp_path: Path
) -> None:
    """Read as pandas does, the first field would be an index, and every column the next one's."""
    path = tmp_path / f"all.{suffix}"
    path.write_text(("text,label\n" + rows).replace(",", separator))
    with pytest.raises(DataError, match=f"^cannot load '{path}': .*(does not match|saw 3$)"):
        find_records(str(path), Wanted())


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_labels_may_be_true_and_false(suffix: str, tmp_path: Path) -> None:
    table = {name: TABLE[name] for name in ("id", "utterance")} | {"label": [True, False] * 2}
    for split in ("train", "test"):
        write(tmp_path / f"{split}.{suffix}", table)
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert (found.train.names, found.train.labels.tolist()) == (("false", "true"), [1, 0, 1, 0])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_hidden_files_are_no_part_of_a_split(suffix: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / split / f"part.{suffix}", TABLE)
        (tmp_path / split / f"._part.{suffix}").write_bytes(b"\0\5\26\7")
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert found.train.texts == found.test.texts == tuple(TABLE["utterance"])


def test_files_of_one_split_may_write_numbers_otherwise(tmp_path: Path) -> None:
    write(tmp_path / "train-1.csv", NUMBERS | {"width": [1, 2, 3, 4]})
    write(tmp_path / "train-2.csv", NUMBERS)
    write(tmp_path / "test.csv", NUMBERS)
    found = find_records(str(tmp_path), Wanted())
    assert found is not None
    assert found.train.table[:, 0].tolist() == [1, 2, 3, 4, 1.5, 2.5, 3.5, 4.5]


def test_columns_that_are_named_are_found_beside_images(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", TABLE | {"photo": [b"one"] * 4})
    wanted = Wanted(text="utterance")
    found, test = find_records(str(tmp_path), wanted), find_test(str(tmp_path), wanted, None)
    assert found is not None
    assert test is not None
    assert found.test.texts == test.texts == tuple(TABLE["utterance"])
    assert find_records(str(tmp_path), Wanted()) is None
    assert find_test(str(tmp_path), Wanted(), None) is None


def test_image_folders_with_tables_beside_them_are_images(tmp_path: Path) -> None:
    """Unless a column is named, or no class folder has an image."""
    for split in ("train", "test"):
        write(tmp_path / split / "metadata.csv", TABLE)
        (tmp_path / split / "ant").mkdir()
    assert find_records(str(tmp_path), Wanted()) is not None
    for split in ("train", "test"):
        write_images(tmp_path / split / "ant" / "deep", [1])
    assert find_records(str(tmp_path), Wanted()) is None
    assert find_test(str(tmp_path), Wanted(), None) is None
    assert find_records(str(tmp_path), Wanted(text="utterance")) is not None
    assert find_test(str(tmp_path), Wanted(label="intent"), None) is not None


def test_columns_of_images_are_left_to_images(tmp_path: Path) -> None:
    assert find_records("digits", Wanted()) is None
    (tmp_path / "train" / "ant").mkdir(parents=True)
    assert find_records(str(tmp_path), Wanted()) is None
    with pytest.raises(DataError, match="has no columns: it is no table"):
        find_records("digits", Wanted(text="text"))
