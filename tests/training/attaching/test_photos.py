"""No image that heads learn from, or that calibrates, is reported on."""

from pathlib import Path

import pytest

from models.bundle.image_input import ImageInput
from tests.training.data.files import write_images
from training.attaching.photos import open_parts
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
