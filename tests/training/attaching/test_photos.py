"""No image that heads learn from, or that calibrates, is reported on."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from models.bundle.image_input import ImageInput
from tests.training.data.files import write_images
from training.attaching.features import Features
from training.attaching.heads import Recipe, trained_heads
from training.attaching.passes import CHUNK, as_it_is, passes
from training.attaching.photos import matched, open_parts, unknown
from training.data import DataError

TARGET = ImageInput(height=4, width=4, channels=3)
ENOUGH = range(200)


@pytest.mark.parametrize("name", ["test", "val", "Validation"])
def test_a_test_split_alone_is_nothing_to_learn_from(name: str, tmp_path: Path) -> None:
    write_images(tmp_path / name / "ant", ENOUGH)
    with pytest.raises(DataError, match="it has neither a folder train nor parquet files"):
        open_parts(str(tmp_path), TARGET, seed=0)
    parts = open_parts(str(tmp_path / name), TARGET, seed=0)
    assert [len(parts.learning), len(parts.calibrating), parts.test.num_rows] == [120, 40, 40]


def test_only_a_missing_test_split_is_forgiven(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant", ENOUGH)
    parts = open_parts(str(tmp_path), TARGET, seed=0)
    assert [len(parts.learning), len(parts.calibrating), parts.test.num_rows] == [120, 40, 40]
    write_images(tmp_path / "test" / "bee", [1])
    with pytest.raises(DataError, match="classes that are not among the labels: bee"):
        open_parts(str(tmp_path), TARGET, seed=0)


def test_classes_without_photos_make_no_photos_unlabelled(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant", ENOUGH)
    write_images(tmp_path / "train" / "cat", [1])
    (tmp_path / "train" / "bee").mkdir()
    photos = open_parts(str(tmp_path), TARGET, seed=0).photos
    known = matched(photos, ("cat", "ant"))
    assert known.labels is not None
    assert np.bincount(known.labels).tolist() == [1, 200]
    assert unknown(photos, ("cat", "dog")) == ["ant"]
    assert matched(photos, ("cat", "dog")).labels is None


def test_all_photos_that_cannot_be_decoded_are_named_at_once(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "ant", ENOUGH)
    images = sorted((tmp_path / "train" / "ant").iterdir())
    bad = [images[place] for place in (3, 4, 150)]
    for image in bad:
        image.write_bytes(image.read_bytes()[:40])
    photos, runner = open_parts(str(tmp_path), TARGET, seed=0).photos, Mock(num_exits=0)
    seen = list[int]()

    def look() -> None:
        for rows, _ in passes(runner, photos, np.arange(200), as_it_is, "looking"):
            seen.extend(rows.tolist())

    with pytest.raises(DataError, match=r"^3 images cannot be decoded: ") as refused:
        look()
    assert [str(image) in str(refused.value) for image in bad] == [True] * 3
    assert len(seen) == 200 - 2 * CHUNK, "two chunks hold them; the others are kept"


def test_heads_are_trained_anew_where_they_learn_from_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a test split it is other rows that calibrate; the cached heads have seen them."""
    monkeypatch.setattr("training.attaching.heads.train_heads", training := Mock())
    generator = np.random.default_rng(0)
    pooled, logits = (generator.normal(size=(200, n)).astype(np.float32) for n in (4, 3))
    every = Features(pooled, logits, (4,), np.arange(200), np.arange(200))
    write_images(tmp_path / "train" / "ant", ENOUGH)
    for _ in range(2):
        rows = open_parts(str(tmp_path), TARGET, seed=0).learning
        trained_heads(every.of(rows, 1), None, Recipe(), 0, tmp_path)
    assert training.call_count == 1
    write_images(tmp_path / "test" / "ant", [1])
    rows = open_parts(str(tmp_path), TARGET, seed=0).learning
    trained_heads(every.of(rows, 1), None, Recipe(), 0, tmp_path)
    assert training.call_count == 2
