"""A split is what lies under DIR/train or DIR/test, and nothing else."""

import os
from pathlib import Path

import pytest

from tests.training.data.files import complaint, write_images
from training.data.folders import FolderRows
from training.data.layout import open_rows
from training.data.rows import SplitName


def rows_of(source: Path, split: SplitName = "train") -> FolderRows:
    rows = open_rows(str(source), split)
    assert isinstance(rows, FolderRows)
    return rows


def paths(rows: FolderRows) -> list[str]:
    found = [rows.describe(row) for row in range(len(rows.labels))]
    return [os.path.relpath(path, rows.folder) for path in found]


def test_classes_named_like_splits_are_classes(tmp_path: Path) -> None:
    """`train` with 6 images has 6 rows, and no test image is trained on."""
    for name, number in (("train", 6), ("bullet-train", 2), ("test tube", 3), ("test", 1)):
        write_images(tmp_path / "train" / name, range(number))
        write_images(tmp_path / "test" / name, range(10 * number))
    train, test = rows_of(tmp_path), rows_of(tmp_path, "test")
    assert train.names == test.names == ("bullet-train", "test", "test tube", "train")
    counts = [[int((r.labels == k).sum()) for k in range(4)] for r in (train, test)]
    assert counts == [[2, 1, 3, 6], [20, 10, 30, 60]]
    assert {path.split("/")[0] for path in paths(train)} == set(train.names)
    assert all(str(train.folder) in train.describe(row) for row in range(12))


def test_other_folders_and_files_are_no_rows(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant", [1, 2])
    write_images(tmp_path / "extra" / "train" / "ant", [3])
    write_images(tmp_path / "train" / ".thumbnails", [4])
    write_images(tmp_path / "train", [5])
    (tmp_path / "train" / "ant" / "notes.txt").write_text("two ants")
    (tmp_path / "train" / "ant" / "._0.png").write_bytes(b"what a Mac leaves")
    write_images(tmp_path / "test" / "ant", [6])
    rows, test = rows_of(tmp_path), rows_of(tmp_path, "test")
    assert rows.names == test.names == ("ant",)
    assert paths(rows) == ["ant/0.png", "ant/1.png"]


def test_files_of_any_depth_and_suffix_in_order(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant" / "2024" / "may", [1])
    write_images(tmp_path / "train" / "ant", [1])
    (tmp_path / "train" / "ant" / "Z.JPEG").write_bytes(b"")
    assert paths(rows_of(tmp_path)) == ["ant/0.png", "ant/2024/may/0.png", "ant/Z.JPEG"]


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Test", "VAL"])
def test_a_validation_split_stands_in_for_a_test_split(name: str, tmp_path: Path) -> None:
    write_images(tmp_path / "Train" / "ant", [1])
    write_images(tmp_path / name / "ant", [1, 2])
    assert len(rows_of(tmp_path).labels) == 1
    rows = rows_of(tmp_path, "test")
    assert len(rows.labels) == 2
    assert rows.title == str(tmp_path / name), "it says which was taken"


def test_the_test_split_goes_before_a_validation_split(tmp_path: Path) -> None:
    write_images(tmp_path / "val" / "ant", [1])
    write_images(tmp_path / "test" / "ant", [1, 2])
    assert len(rows_of(tmp_path, "test").labels) == 2


def test_linked_splits_classes_and_files_work(tmp_path: Path) -> None:
    (file,) = write_images(tmp_path / "elsewhere" / "ant", [1])
    write_images(tmp_path / "elsewhere" / "bee", [1, 2])
    train = tmp_path / "data" / "train"
    train.mkdir(parents=True)
    (train / "bee").symlink_to(tmp_path / "elsewhere" / "bee")
    (train / "ant").mkdir()
    (train / "ant" / "link.png").symlink_to(file)
    (tmp_path / "data" / "test").symlink_to(train)
    for split in ("train", "test"):
        rows = rows_of(tmp_path / "data", "test" if split == "test" else "train")
        assert paths(rows) == ["ant/link.png", "bee/0.png", "bee/1.png"]
        with rows.open(0) as image:
            assert image.size == (4, 4)


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant" / "more", [1])
    (tmp_path / "train" / "ant" / "more" / "up").symlink_to(tmp_path / "train" / "ant")
    assert paths(rows_of(tmp_path)) == ["ant/more/0.png"]


def test_file_names_of_other_encodings_are_opened(tmp_path: Path) -> None:
    (path,) = write_images(tmp_path / "train" / "ant", [7])
    os.rename(os.fsencode(path), os.path.join(os.fsencode(path.parent), b"caf\xe9.png"))
    assert rows_of(tmp_path).open(0).getpixel((0, 0)) == (7, 7, 7)


def test_what_is_no_split_is_refused_in_one_sentence(tmp_path: Path) -> None:
    start = f"cannot load the train split of '{tmp_path}': it has neither a folder train nor"
    assert complaint(tmp_path).startswith(start)
    (tmp_path / "train").mkdir()
    assert complaint(tmp_path) == f"{tmp_path}/train has no class folders"
    (tmp_path / "train" / "ant").mkdir()
    assert complaint(tmp_path) == f"{tmp_path}/train has no images in its class folders"
    assert "a folder test or val or valid or validation nor" in complaint(tmp_path, "test")


def test_a_class_only_in_the_test_split_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant", [1])
    write_images(tmp_path / "test" / "ant", [1])
    write_images(tmp_path / "test" / "zebra", [1])
    message = complaint(tmp_path, "test")
    assert message == f"{tmp_path}/test has classes that are not among the labels: zebra"


def test_splits_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "Train" / "ant", [1])
    write_images(tmp_path / "train" / "ant", [1])
    assert complaint(tmp_path).endswith("differ in case only; keep one of them")
