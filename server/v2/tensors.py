"""Tensors between the wire and numpy: JSON lists or little-endian bytes, row-major. Pure."""

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import BadParameter

Array = NDArray[Any]

DATATYPES = {"u1": "UINT8", "i4": "INT32", "f4": "FP32", "O": "BYTES"}
"""The protocol's name for each of our dtypes, by kind and size; BYTES are arrays of str."""
LENGTH_BYTES = 4


def datatype_of(array: Array) -> str:
    return DATATYPES[array.dtype.str.lstrip("<>|=")]


def uint8_of_bytes(content: bytes | memoryview, shape: Sequence[int]) -> NDArray[np.uint8]:
    """A view of the bytes; raises BadParameter where their number is not the shape's."""
    if len(content) != prod(shape):
        raise BadParameter(
            "inputs.0", f"{len(content)} bytes of data; shape {list(shape)} has {prod(shape)}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def uint8_of_json(data: Sequence[Any], shape: Sequence[int]) -> NDArray[np.uint8]:
    """From a flat list of integers or one nested as the shape says; raises BadParameter."""
    flat = data if not data or type(data[0]) is not list else flattened(data, shape)
    if len(flat) != prod(shape):
        raise BadParameter(
            "inputs.0.data", f"{len(flat)} elements; shape {list(shape)} has {prod(shape)}"
        )
    if set(map(type, flat)) != {int} or min(flat) < 0 or max(flat) > 255:
        raise BadParameter("inputs.0.data", "UINT8 elements are integers from 0 to 255")
    return np.array(flat, np.uint8).reshape(shape)


def flattened(data: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """The innermost elements of lists that nest exactly as deep and as long as the shape says."""
    level: list[Any] = [data]
    for length in shape:
        if any(type(entry) is not list or len(entry) != length for entry in level):
            raise BadParameter("inputs.0.data", f"the lists do not nest as shape {list(shape)}")
        level = list(chain.from_iterable(level))
    return level


def to_json(array: Array) -> list[Any]:
    """Every element in one flat list."""
    elements: list[Any] = array.ravel().tolist()
    return elements


def to_bytes(array: Array) -> bytes:
    """Little-endian elements; of BYTES, each with its length before it."""
    if array.dtype != np.object_:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    encoded = [text.encode() for text in array.ravel()]
    return b"".join(len(text).to_bytes(LENGTH_BYTES, "little") + text for text in encoded)


def texts(elements: Sequence[Any]) -> Array:
    """A BYTES tensor of strings, or of equally long lists of them."""
    return np.array(elements, dtype=object)
