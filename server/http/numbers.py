"""Numbers of a request as arrays, checked: nested lists as JSON has them, or bytes. Pure."""

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import BadParameter

Array = NDArray[Any]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""The Open Inference Protocol's names of the manifest's dtypes."""


def array_of_bytes(
    content: bytes | memoryview, shape: Sequence[int], dtype: str, field: str
) -> Array:
    """A view of little-endian bytes; raises BadParameter where they are not the shape's."""
    kind = np.dtype(dtype).newbyteorder("<")
    if len(content) != prod(shape) * kind.itemsize:
        raise BadParameter(
            field,
            f"{len(content)} bytes of data; {DATATYPES[dtype]} of shape {list(shape)} has "
            f"{prod(shape) * kind.itemsize}",
        )
    if dtype == "bool" and max(content, default=0) > 1:
        raise BadParameter(field, "BOOL elements are 0 or 1")
    array = np.frombuffer(content, kind).reshape(shape)
    check_finite(array, field)
    return array


def array_of_json(data: Any, shape: Sequence[int], dtype: str, field: str) -> Array:  # noqa: ANN401
    """From lists nested as the shape says; one flat list will do as well. Raises BadParameter."""
    is_flat = not shape or type(data) is not list or not data or type(data[0]) is not list
    level = [data] if not shape or type(data) is not list else data
    flat = level if is_flat else flattened(level, shape, field)
    if len(flat) != prod(shape):
        raise BadParameter(field, f"{len(flat)} elements; shape {list(shape)} has {prod(shape)}")
    check_elements(flat, dtype, field)
    with np.errstate(over="ignore"):  # what is too large for the type is told below
        array = np.array(flat).astype(dtype).reshape(shape)
    check_finite(array, field)
    return array


def flattened(data: Sequence[Any], shape: Sequence[int], field: str) -> list[Any]:
    """The innermost elements of lists that nest exactly as deep and as long as the shape says."""
    level: list[Any] = [data]
    for length in shape:
        if any(type(entry) is not list or len(entry) != length for entry in level):
            raise BadParameter(field, f"the lists do not nest as shape {list(shape)}")
        level = list(chain.from_iterable(level))
    return level


def check_elements(flat: Sequence[Any], dtype: str, field: str) -> None:
    """Raises BadParameter where an element is none of the type."""
    kinds, name = set(map(type, flat)), DATATYPES[dtype]
    if dtype == "bool":
        if kinds - {bool}:
            raise BadParameter(field, f"{name} elements are true or false")
    elif dtype.startswith("float"):
        largest = float(np.finfo(dtype).max)
        if kinds - {int, float} or not all(-largest <= number <= largest for number in flat):
            raise BadParameter(field, f"{name} elements are finite numbers up to {largest:.4g}")
    else:
        span = np.iinfo(dtype)
        if kinds - {int} or (flat and not (span.min <= min(flat) and max(flat) <= span.max)):
            raise BadParameter(field, f"{name} elements are integers from {span.min} to {span.max}")


def check_span(array: Array, span: tuple[int, int] | None, field: str) -> None:
    """Raises BadParameter for integers that the model does not know."""
    if span is not None and (array.min() < span[0] or array.max() > span[1]):
        raise BadParameter(field, f"elements are integers from {span[0]} to {span[1]}")


def check_finite(array: Array, field: str) -> None:
    """Raises BadParameter for NaN and infinities."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadParameter(field, "has numbers that are not finite")
