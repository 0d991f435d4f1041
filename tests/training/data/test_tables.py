"""Parquet files with labels of any kind, and hub names."""

import time
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Value

from tests.images import encoded
from tests.training.data.files import ANIMALS, complaint, grey, write_parquet
from training.data import DataError, load_images
from training.data.layout import open_rows
from training.data.rows import SplitName
from training.data.tables import TableRows


def rows_of(source: Path, split: SplitName = "train") -> TableRows:
    rows = open_rows(str(source), split)
    assert isinstance(rows, TableRows)
    return rows


def test_files_are_of_the_split_they_are_named_for(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data", [grey(1), grey(2), grey(3), grey(4)])
    write_parquet(tmp_path / "data", [grey(5)], "validation")
    write_parquet(tmp_path / "data", [grey(6)], "out_of_scope")
    write_parquet(tmp_path / "data", [grey(7)], "trains")
    (tmp_path / "data" / "._train.parquet").write_bytes(b"\0\5\26\7")
    for place in (tmp_path / "data", tmp_path):
        train, test = rows_of(place), rows_of(place, "test")
        assert (len(train.labels), len(test.labels)) == (4, 1)
        assert train.names == test.names == tuple(ANIMALS)
        assert train.open(3).getpixel((0, 0)) == (4, 4, 4)


def test_splits_in_folders_of_their_own(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train", [grey(1), grey(2)], "part")
    write_parquet(tmp_path / "test", [grey(3)], "train")
    assert len(rows_of(tmp_path).labels) == 2
    assert rows_of(tmp_path, "test").open(0).getpixel((0, 0)) == (3, 3, 3)


@pytest.mark.parametrize(
    ("kind", "labels", "names", "numbers"),
    [
        (ClassLabel(names=ANIMALS), [2, 0, 1], ("ant", "bee", "cat"), [2, 0, 1]),
        (Value("int64"), [7, 3, 7], ("3", "7"), [1, 0, 1]),
        (Value("uint8"), [0, 1, 2], ("0", "1", "2"), [0, 1, 2]),
        (Value("string"), ["cat", "ant", "cat"], ("ant", "cat"), [1, 0, 1]),
        (Value("large_string"), ["b", "b", "a"], ("a", "b"), [1, 1, 0]),
    ],
)
def test_labels_are_classes_integers_or_strings(
    kind: object, labels: list[object], names: tuple[str, ...], numbers: list[int], tmp_path: Path
) -> None:
    write_parquet(tmp_path, [grey(1), grey(2), grey(3)], kind=kind, labels=labels)
    rows = rows_of(tmp_path)
    assert (rows.names, rows.labels.tolist()) == (names, numbers)


def test_test_labels_are_numbered_as_the_training_splits_are(tmp_path: Path) -> None:
    write_parquet(tmp_path, [grey(k) for k in range(3)], kind=Value("string"), labels=list("abc"))
    write_parquet(tmp_path, [grey(1)], "test", kind=Value("string"), labels=["c"])
    assert rows_of(tmp_path, "test").labels.tolist() == [2]
    write_parquet(tmp_path, [grey(1)], "test", kind=Value("string"), labels=["z"])
    assert complaint(tmp_path, "test") == (
        f"the test split of '{tmp_path}' has classes that are not among the labels: z"
    )


def test_hidden_labels_are_refused_with_their_number(tmp_path: Path) -> None:
    """-1 stands for labels that a competition keeps to itself."""
    write_parquet(tmp_path, [grey(k) for k in range(4)], kind=Value("int64"), labels=[-1, 0, -1, 1])
    message = (
        f"2 rows of the train split of '{tmp_path}' have labels below zero: they are hidden ones"
    )
    assert complaint(tmp_path) == message
    named, other = ClassLabel(names=ANIMALS), tmp_path / "other"
    write_parquet(other, [grey(1), grey(2)], "test", kind=named, labels=[-1, -1])
    assert complaint(other, "test").startswith("2 rows of the test split of")


def test_null_labels_are_refused_with_their_number(tmp_path: Path) -> None:
    write_parquet(tmp_path, [grey(1), grey(2)], kind=Value("int64"), labels=[None, 1])
    assert complaint(tmp_path) == f"1 rows of the train split of '{tmp_path}' have no label: rows 0"


def test_a_null_image_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path, [grey(1), None, grey(3)])
    with pytest.raises(DataError, match=rf"row 1 of the train split of '{tmp_path}' has no image"):
        load_images(str(tmp_path), "train")


def test_columns_of_plain_bytes_and_other_names(tmp_path: Path) -> None:
    rows = Dataset.from_dict(
        {"jpg": [encoded(grey(1)), encoded(grey(2))], "class": [1, 0], "id": ["a", "b"]}
    )
    rows.to_parquet(str(tmp_path / "train.parquet"))
    found = rows_of(tmp_path)
    assert found.labels.tolist() == [1, 0]
    assert found.open(1).getpixel((0, 0)) == (2, 2, 2)


def test_tables_without_images_or_labels_are_refused(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(str(tmp_path / "train.parquet"))
    assert complaint(tmp_path).endswith("has no column of images among text, label")
    rows = Dataset.from_dict({"image": [b""], "this": [0], "that": [0]})
    rows.to_parquet(str(tmp_path / "train.parquet"))
    assert complaint(tmp_path).endswith(
        "has no column of labels among image, this, that; name it 'label'"
    )


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [grey(value) for value in range(100)])
    content = bytearray(path.read_bytes())
    content[20:500] = b"x" * 480
    path.write_bytes(content)
    assert complaint(tmp_path).startswith(f"cannot load the train split of '{tmp_path}': ")
    path.write_bytes(b"junk")
    assert complaint(tmp_path).startswith(f"cannot load the train split of '{tmp_path}': ")


def test_a_fifth_of_a_single_file_is_for_testing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_parquet(tmp_path, [grey(k) for k in range(30)])
    train, test = rows_of(path), rows_of(path, "test")
    assert (len(train.labels), len(test.labels)) == (24, 6)
    assert [int((test.labels == k).sum()) for k in range(3)] == [2, 2, 2]
    values = [rows.open(row).getpixel((0, 0)) for rows in (train, test) for row in range(6)]
    assert len(set(values)) == 12, "no row is in both"
    assert test.describe(0) == f"row {test.index[0]} of the test split of '{path}'"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(rows_of(Path("~") / path.name).labels) == 24


@pytest.mark.parametrize(
    "source", ["./nothing", "/nowhere/at/all", "tests/nothing", "~/nothing", "a/b/c", "x.parquet"]
)
def test_the_hub_is_not_asked_for_a_path(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    message = complaint(source)
    assert message.startswith(f"cannot load the train split of {source!r}: ")
    assert "no such file or directory" in message
    assert time.monotonic() - started < 2, "it did not wait for anybody"
