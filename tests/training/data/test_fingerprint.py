"""A run knows its data again, and says what differs."""

import os
from pathlib import Path

import pytest

from tests.training.data.files import grey, write_images, write_parquet
from training.data import DataError, folders, tables
from training.data.fingerprint import Fingerprint, keep, kept
from training.data.layout import open_rows


def fingerprint(source: Path) -> Fingerprint:
    return Fingerprint.of(open_rows(str(source), "train"), open_rows(str(source), "test"))


def photos(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            write_images(tmp_path / split / name, range(5))
    return tmp_path


def complaint(before: Fingerprint, after: Fingerprint) -> str:
    with pytest.raises(DataError) as refused:
        before.refuse_change(after, Path("runs/a"))
    return str(refused.value)


def test_the_same_data_are_known_again(tmp_path: Path) -> None:
    source = photos(tmp_path / "data")
    keep(fingerprint(source), tmp_path)
    found = kept(tmp_path)
    assert found is not None
    found.refuse_change(fingerprint(source), tmp_path)
    assert found.train["ant"].num_rows == 5
    assert {path.name for path in tmp_path.iterdir()} == {"data", "data.json"}


def test_more_fewer_or_renamed_images_are_named(tmp_path: Path) -> None:
    source = photos(tmp_path / "data")
    before = fingerprint(source)
    (source / "train" / "bee" / "0.png").unlink()
    (source / "test" / "ant" / "0.png").unlink()
    assert complaint(before, fingerprint(source)) == (
        "the data are not those that runs/a was made with: class 'bee' of train has 4 rows, not "
        "5, class 'ant' of test has 4 rows, not 5; its splits are rows of the old data: bring "
        "them back, or start a new run"
    )
    write_images(source / "train" / "cat", [1])
    assert "class 'cat' of train is new" in complaint(before, fingerprint(source))


def test_a_renamed_image_is_another(tmp_path: Path) -> None:
    source = photos(tmp_path / "data")
    before = fingerprint(source)
    (source / "train" / "ant" / "3.png").rename(source / "train" / "ant" / "9.png")
    message = complaint(before, fingerprint(source))
    assert "class 'ant' of train has other rows;" in message


def test_a_file_that_is_overwritten_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where its size and time stay; of large splits only sizes are compared."""
    source = photos(tmp_path / "data")
    image = source / "train" / "ant" / "3.png"
    before, times = fingerprint(source), image.stat()
    content = bytearray(image.read_bytes())
    content[-20] ^= 1
    image.write_bytes(content)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    message = "class 'ant' of train has other rows;"
    assert message in complaint(before, fingerprint(source))

    monkeypatch.setattr(folders, "READ_BYTES", 100)
    by_size = fingerprint(source)
    content[-20] ^= 1
    image.write_bytes(content)
    by_size.refuse_change(fingerprint(source), tmp_path)
    image.write_bytes(content + b"more")
    assert message in complaint(by_size, fingerprint(source))


def test_files_that_were_only_touched_are_the_same(tmp_path: Path) -> None:
    source = photos(tmp_path / "data")
    before = fingerprint(source)
    for path in source.rglob("*.png"):
        os.utime(path, (0, 0))
    before.refuse_change(fingerprint(source), tmp_path)


def test_rows_of_tables_are_known_by_place_and_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(*values: int, grey_of_first: int = 0) -> Fingerprint:
        images = [grey(0, size) for size in values]
        images[0] = grey(grey_of_first, values[0])
        for split in ("train", "test"):
            write_parquet(tmp_path, images, split)
        return fingerprint(tmp_path)

    message = "class 'ant' of train has other rows"
    before = rows(4, 8, 16, 32)
    before.refuse_change(rows(4, 8, 16, 32), tmp_path)
    assert message in complaint(before, rows(32, 8, 16, 4))
    assert message in complaint(before, rows(4, 8, 16, 32, grey_of_first=1))
    monkeypatch.setattr(tables, "READ_BYTES", 100)
    assert message in complaint(rows(4, 8, 16, 32), rows(32, 8, 16, 4))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    assert kept(tmp_path) is None
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(DataError, match=r"data.json is damaged$"):
        kept(tmp_path)
