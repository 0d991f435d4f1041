"""What goes over the wire comes back as it was; Triton's client is the other end."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from server.errors import BadParameter
from server.http.numbers import array_of_bytes, array_of_json
from server.v2.tensors import (
    datatype_of,
    texts,
    to_bytes,
    to_json,
)

SHAPES = array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
IMAGES = arrays(np.uint8, SHAPES)
FLOATS = arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False))


@given(IMAGES)
def test_uint8_reads_flat_and_nested_json_and_bytes_alike(array: NDArray[np.uint8]) -> None:
    for read in (
        array_of_json(array.ravel().tolist(), array.shape, "uint8", "inputs.0.data"),
        array_of_json(array.tolist(), array.shape, "uint8", "inputs.0.data"),
        array_of_bytes(array.tobytes(), array.shape, "uint8", "inputs.0"),
    ):
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, array)


@given(FLOATS)
def test_floats_survive_json_and_bytes_exactly(array: NDArray[np.float32]) -> None:
    dtype = triton_to_np_dtype(datatype_of(array))
    by_bytes = np.frombuffer(to_bytes(array), dtype).reshape(array.shape)
    by_json = np.array(to_json(array), dtype).reshape(array.shape)
    np.testing.assert_array_equal(by_bytes, array)
    np.testing.assert_array_equal(by_json, array)


def test_bytes_are_little_endian_on_any_host() -> None:  # C24
    for order in "<>":
        assert to_bytes(np.array([1, 258], f"{order}i4")) == b"\1\0\0\0\2\1\0\0"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_texts_are_what_tritons_client_reads(written: list[str]) -> None:
    array = texts(written)
    assert datatype_of(array) == "BYTES"
    assert to_json(array) == written
    read = deserialize_bytes_tensor(to_bytes(array))
    assert [text.decode() for text in read] == written


@pytest.mark.parametrize(
    "data",
    [
        [],
        [1],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, 256],
        [1, 2, 3, -1],
        [1, 2, 3, 10**30],
        [1, 2, 3, 4.0],
        [1, 2, 3, True],
        [1, 2, 3, None],
        [1, 2, 3, "4"],
        [1, 2, 3, [4]],
        [[1, 2], [3]],
        [[1, 2], [3, 4], [5, 6]],
        [[1, 2, 3, 4]],
        [[1, 2], 3],
        [[[1, 2], [3, 4]]],
        [[[1], [2]], [[3], [4]]],
        [[1, 2], [3, float("nan")]],
    ],
)
def test_json_that_is_no_uint8_tensor_of_two_by_two(data: list[Any]) -> None:
    with pytest.raises(BadParameter):
        array_of_json(data, (2, 2), "uint8", "inputs.0.data")


def test_short_and_surplus_bytes() -> None:
    for content in (b"", b"123", b"12345"):
        with pytest.raises(BadParameter):
            array_of_bytes(content, (2, 2), "uint8", "inputs.0")
