"""From a request's input tensors to rows. Pure."""

from base64 import b64decode
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any, NamedTuple

from models.bundle.image_input import ImageInput
from models.bundle.manifest import Manifest
from models.bundle.text_input import TextInput
from server.errors import BadBody, BadParameter
from server.http.contents import Contents
from server.http.numbers import DATATYPES, Array, array_of_bytes, array_of_json, check_span
from server.http.rows import Arrays
from server.http.texts import text_of
from server.v2.request_schemas import InputTensor

TEXTS = "text"
"""The input of a model that takes texts."""
LENGTH_BYTES = 4
"""Before each element of binary BYTES."""
BYTES = "BYTES"


class Expected(NamedTuple):
    """An input of a model: a row of it has `shape`, but a row of BYTES is one element."""

    name: str
    datatypes: tuple[str, ...]
    shape: tuple[int, ...] = ()
    dtype: str = ""
    span: tuple[int, int] | None = None


class Part(NamedTuple):
    """An input of a request that has the form it should have; `tail` is its binary data."""

    given: InputTensor
    expected: Expected
    field: str
    tail: memoryview


def expected_inputs(manifest: Manifest) -> list[Expected]:
    """What a model takes. Images may also come as files, which are BYTES."""
    takes = manifest.input
    if isinstance(takes, TextInput):
        return [Expected(TEXTS, (BYTES,))]
    inputs = manifest.segments[0].inputs
    if isinstance(takes, ImageInput):
        return [Expected(each.name, ("UINT8", BYTES), each.shape[1:], "uint8") for each in inputs]
    return [
        Expected(each.name, (DATATYPES[each.dtype],), each.shape, each.dtype, each.span)
        for each in takes.tensors
    ]


def num_values(manifest: Manifest, max_rows: int) -> int:
    """How many values and lists the data of a request can have."""
    total = 0
    for expected in expected_inputs(manifest):
        row = 1
        for size in reversed(expected.shape):
            row = 1 + size * row
        total += max_rows * (1 + row)
    return total


def rows_of(
    inputs: list[InputTensor], tail: memoryview, manifest: Manifest, max_rows: int
) -> Contents | Arrays:
    """The inputs as rows; nothing is allocated before all that is said of them is right."""
    parts = parts_of(inputs, tail, expected_inputs(manifest), max_rows)
    (first, *_) = parts
    if first.given.datatype != BYTES:
        return Arrays([array_of(part) for part in parts])
    field = f"{first.field}.data"
    if isinstance(manifest.input, TextInput):
        return Contents("text", texts_of(first, field), field)
    return Contents("image", files_of(first, field), field)


def row_of_bytes(body: bytes, manifest: Manifest) -> Contents | Arrays:
    """One row that is nothing but its bytes; only a model with one input takes it."""
    takes, (first, *others) = manifest.input, expected_inputs(manifest)
    if isinstance(takes, TextInput):
        return Contents("text", [text_of(body, TEXTS)], TEXTS)
    if others:
        raise BadParameter("inputs", f"{manifest.name} has several, which need names")
    array = array_of_bytes(body, (1, *first.shape), first.dtype, "inputs.0")
    check_span(array, first.span, "inputs.0")
    return Arrays([array])


def parts_of(
    inputs: list[InputTensor], tail: memoryview, takes: list[Expected], max_rows: int
) -> list[Part]:
    """The inputs in the model's order, each with its binary data."""
    names = [given.name for given in inputs]
    if sorted(names) != sorted(expected.name for expected in takes):
        wanted = ", ".join(repr(expected.name) for expected in takes)
        number = "one" if len(takes) == 1 else f"these {len(takes)}"
        raise BadParameter("inputs", f"there must be {number}, {wanted}")
    sizes = [given.parameters.binary_data_size for given in inputs]
    num_bytes, rows = sum(size or 0 for size in sizes), (inputs[0].shape or [0])[0]
    for expected in takes:
        index = names.index(expected.name)
        check(inputs[index], expected, index, max_rows)
        if inputs[index].shape[0] != rows:
            raise BadParameter(f"inputs.{index}.shape", f"has not {rows} rows as inputs.0 has")
    if len(tail) != num_bytes:
        raise BadBody(f"{len(tail)} bytes follow the JSON; it announces {num_bytes}")
    parts = {}
    for index, (given, size) in enumerate(zip(inputs, sizes, strict=True)):
        expected = next(each for each in takes if each.name == given.name)
        parts[given.name] = Part(given, expected, f"inputs.{index}", tail[: size or 0])
        tail = tail[size or 0 :]
    return [parts[expected.name] for expected in takes]


def check(given: InputTensor, expected: Expected, index: int, max_rows: int) -> None:
    """Raises BadParameter where an input has not the form that the model takes."""
    field, name = f"inputs.{index}", expected.name
    if given.datatype not in expected.datatypes:
        raise BadParameter(f"{field}.datatype", f"{name} is {' or '.join(expected.datatypes)}")
    rows, *row_shape = given.shape or [0]
    shape, allowed = list(expected.shape), [list(expected.shape)]
    if given.datatype == BYTES:
        shape, allowed = [], [[], [1]]
    if row_shape not in allowed or not 1 <= rows <= max_rows:
        said = ", ".join(map(str, [f"1 to {max_rows}", *shape]))
        raise BadParameter(f"{field}.shape", f"{name} is [{said}]")
    if (given.parameters.binary_data_size is None) == (given.data is None):
        raise BadParameter(field, "needs either data or parameters.binary_data_size")


def array_of(part: Part) -> Array:
    """The numbers of an input."""
    given, dtype = part.given, part.expected.dtype
    if given.data is None:
        array = array_of_bytes(part.tail, given.shape, dtype, part.field)
    else:
        array = array_of_json(given.data, given.shape, dtype, f"{part.field}.data")
    check_span(array, part.expected.span, part.field)
    return array


def texts_of(part: Part, field: str) -> list[str]:
    if part.given.data is None:
        elements = elements_of(part.tail, part.given.shape[0], field)
        return [text_of(element, f"{field}.{i}") for i, element in enumerate(elements)]
    return strings_of(part.given, field)


def files_of(part: Part, field: str) -> list[bytes]:
    """Encoded images: bytes, or base64 where they are in the JSON."""
    if part.given.data is None:
        return elements_of(part.tail, part.given.shape[0], field)
    try:
        return [b64decode(text, validate=True) for text in strings_of(part.given, field)]
    except ValueError as error:
        raise BadParameter(field, f"images in JSON are base64: {error}") from error


def strings_of(given: InputTensor, field: str) -> list[str]:
    """The elements of BYTES in JSON, one a row, each perhaps in a list of its own."""
    data: Sequence[Any] = given.data or []
    if given.shape[1:] and all(type(row) is list for row in data):
        data = list(chain.from_iterable(data))
    if len(data) != prod(given.shape) or any(type(element) is not str for element in data):
        raise BadParameter(field, f"must have {prod(given.shape)} strings")
    return list(data)


def elements_of(content: memoryview, num_elements: int, field: str) -> list[bytes]:
    """The elements of binary BYTES; raises BadParameter unless they are all there is."""
    elements: list[bytes] = []
    while len(content) >= LENGTH_BYTES and len(elements) < num_elements:
        end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
        if end > len(content):
            break
        elements.append(bytes(content[LENGTH_BYTES:end]))
        content = content[end:]
    if len(elements) != num_elements or len(content) > 0:
        raise BadParameter(field, f"is not {num_elements} elements, each after its length")
    return elements
