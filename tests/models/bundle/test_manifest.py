import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.bundle.calibration import CalibrationRows
from models.bundle.image_input import ImageInput
from models.bundle.manifest import version_of
from models.bundle.records import Tensor, shapes


@given(st.integers(1, 999_999_999))
def test_a_version_directory_is_a_plain_positive_integer(version: int) -> None:
    assert version_of(str(version)) == version


@pytest.mark.parametrize(
    "name", ["0", "01", "-1", "+1", "1.0", "", "v1", " 1", "1\n", "1e3", "\u0661"]
)
def test_other_directories_are_no_versions(name: str) -> None:
    assert version_of(name) is None


def test_shapes_read_like_a_signature() -> None:
    first = Tensor(name="x", dtype="uint8", shape=(-1, 8, 8, 1))
    second = Tensor(name="y", dtype="float32", shape=(-1, 10))
    assert shapes((first, second)) == "x: uint8 [-1, 8, 8, 1], y: float32 [-1, 10]"


def test_records_are_frozen_and_convert_nothing() -> None:
    made = ImageInput(height=8, width=8, channels=1)
    with pytest.raises(ValidationError, match="frozen"):
        made.height = 9  # type: ignore[misc]
    with pytest.raises(ValidationError, match="valid integer"):
        ImageInput.model_validate({"height": "8", "width": 8, "channels": 1})


def test_calibration_rows_survive_their_encoding() -> None:
    confidences = np.array([[0.0, 1.0, 0.5], [0.123456, 0.9, 0.3]])
    is_right = np.array([[True, False, True], [False, False, True]])
    rows = CalibrationRows.of(confidences, is_right)
    again = CalibrationRows.model_validate_json(rows.model_dump_json())
    found, right = again.arrays(3)
    np.testing.assert_allclose(found, confidences, atol=1 / 65535)
    assert right.tolist() == is_right.tolist()
    assert again.buckets is None
    of_texts = CalibrationRows.of(confidences, is_right, np.array([8, 512]))
    again = CalibrationRows.model_validate_json(of_texts.model_dump_json())
    assert again.buckets is not None
    assert again.buckets.tolist() == [8, 512]
