"""Tensors from numpy to the wire: JSON lists or little-endian bytes, row-major. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from server.http.numbers import DATATYPES, Array
from server.v2.inputs import BYTES, LENGTH_BYTES


def datatype_of(array: Array) -> str:
    """The protocol's name of its dtype; BYTES are arrays of str."""
    return BYTES if array.dtype == np.object_ else DATATYPES[array.dtype.name]


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
