"""Numbers arrive as they were sent, or are refused with the name of their place."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle.tensor_input import RowTensor
from server.errors import BadParameter
from server.http.numbers import array_of_bytes, array_of_json, check_span
from server.http.rows import Rows

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=2),
    lambda values: st.lists(values, max_size=3),
    max_leaves=8,
)


@given(values=st.lists(FINITE, min_size=4, max_size=4))
def test_floats_are_read_from_flat_and_nested_lists_and_from_bytes(values: list[float]) -> None:
    expected = np.array(values, np.float32).reshape(2, 2)
    for data in (values, expected.tolist()):
        np.testing.assert_array_equal(array_of_json(data, (2, 2), "float32", "x"), expected)
    content = expected.astype("<f4").tobytes()
    np.testing.assert_array_equal(array_of_bytes(content, (2, 2), "float32", "x"), expected)


@given(data=JSON, dtype=st.sampled_from(["float16", "float32", "int64", "uint8", "bool"]))
def test_any_json_is_an_array_of_finite_numbers_or_refused(data: object, dtype: str) -> None:
    for shape in ((), (1,), (2,), (1, 2)):
        try:
            array = array_of_json(data, shape, dtype, "x")
        except BadParameter:
            continue
        assert (array.shape, array.dtype.name) == (shape, dtype)
        assert np.isfinite(array).all()


@pytest.mark.parametrize(
    ("data", "dtype", "says"),
    [
        ([1.0, 1e39], "float32", "finite numbers up to 3.403e+38"),
        ([1.0, float("nan")], "float64", "finite numbers"),
        ([1, 10**400], "float64", "finite numbers"),
        ([1, 2.0], "int64", "integers from -9223372036854775808 to"),
        ([1, 256], "uint8", "UINT8 elements are integers from 0 to 255"),
        ([1, -129], "int8", "integers from -128 to 127"),
        ([1, True], "int32", "integers"),
        ([0, 1], "bool", "true or false"),
        ([[1], [2]], "float32", "finite numbers"),
        ([1, 2, 3], "float32", "3 elements; shape [2] has 2"),
    ],
)
def test_what_is_no_element_is_refused(data: Any, dtype: str, says: str) -> None:  # noqa: ANN401
    with pytest.raises(BadParameter) as refused:
        array_of_json(data, (2,), dtype, "x")
    assert says in str(refused.value)


def test_bytes_are_looked_at_too() -> None:
    for content, dtype in (
        (np.array([1, np.inf], "<f4").tobytes(), "float32"),
        (b"\1\2", "bool"),
        (bytes(7), "float32"),
    ):
        with pytest.raises(BadParameter):
            array_of_bytes(content, (2,), dtype, "x")
    with pytest.raises(BadParameter, match="integers from 0 to 4"):
        check_span(np.array([5]), (0, 4), "x")


def test_a_row_has_a_value_for_every_tensor() -> None:
    parts = [
        RowTensor(name="a", dtype="float32", shape=(2,)),
        RowTensor(name="b", dtype="int32", shape=(), span=(0, 9)),
    ]
    rows = Rows([{"a": [1, 2], "b": 3}, {"b": 4, "a": [[5, 6]][0]}], parts).decode()
    assert [row.index for row in rows] == [0, 1]
    first, second = rows[0].arrays
    assert (first.tolist(), second.tolist()) == ([[1, 2], [5, 6]], [3, 4])
    assert rows[1].arrays is rows[0].arrays
