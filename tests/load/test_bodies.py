from pathlib import Path

import pytest

from load.bodies import read
from models.bundle.errors import UserError


def test_class_directories_are_labels(tmp_path: Path) -> None:
    for place in ("cat/1.png", "cat/2.JPG", "dog/3.webp", "dog/notes.md"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(place.encode())
    found = read(tmp_path, 10)
    assert found.labels is not None
    sent = {
        (body.content, body.kind, label)
        for body, label in zip(found.bodies, found.labels, strict=True)
    }
    assert sent == {
        (b"cat/1.png", "image/png", "cat"),
        (b"cat/2.JPG", "image/jpeg", "cat"),
        (b"dog/3.webp", "image/webp", "dog"),
    }
    assert len(read(tmp_path, 2).bodies) == 2


@pytest.mark.parametrize(
    ("place", "label"),
    [
        ("otter/1.png", "otter"),
        ("otter/summer/river/1.png", "otter"),
        ("test/otter/1.png", "otter"),
        ("Train/otter/river/1.png", "otter"),
        ("train/1.png", "train"),
        ("1.png", None),
    ],
)
def test_files_lie_in_their_class_at_any_depth(
    place: str, label: str | None, tmp_path: Path
) -> None:
    """As for training; a class may be called as a split is."""
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(b"png")
    (tmp_path / place).with_name("._1.png").write_bytes(b"no image")
    found = read(tmp_path, 10)
    assert [body.content for body in found.bodies] == [b"png"]
    assert found.labels == (None if label is None else [label])


def test_one_file_without_a_class_leaves_all_without_labels(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.txt").write_text("meow")
    assert read(tmp_path, 10).labels == ["cat"]
    (tmp_path / "2.txt").write_text("woof")
    assert read(tmp_path, 10).labels is None


def test_lines_are_texts_and_a_tab_brings_the_label(tmp_path: Path) -> None:
    file = tmp_path / "texts.tsv"
    file.write_text("book a flight\ttravel\n\nhow are you\tsmall talk\n")
    found = read(file, 10)
    assert found.labels is not None
    assert {
        (b.content, b.kind, label) for b, label in zip(found.bodies, found.labels, strict=True)
    } == {
        (b"book a flight", "text/plain", "travel"),
        (b"how are you", "text/plain", "small talk"),
    }
    file.write_text("book a flight\nhow are you\n")
    assert read(file, 10).labels is None


def test_lines_end_where_editors_end_them(tmp_path: Path) -> None:
    """Some editors begin a file with a byte order mark; a text may have Unicode's own breaks."""
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffone\u2028two\x85\r\nthree\r\n".encode())
    contents = {body.content for body in read(file, 10).bodies}
    assert contents == {"one\u2028two\x85".encode(), b"three"}


def test_nothing_to_send_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither images nor texts"):
        read(tmp_path, 10)


def test_a_single_image_is_no_list_of_texts(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"cat.png is neither a directory nor a text in UTF-8"):
        read(tmp_path / "cat.png", 10)
