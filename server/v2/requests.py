"""From the bytes of an inference request to its rows, parameters and outputs. Pure."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from models.bundle.manifest import Manifest
from server.errors import BadBody, BadParameter
from server.http.contents import Contents
from server.http.rows import Arrays
from server.http.strict_json import STRINGS, check_size
from server.parameters import InferenceParameters
from server.v2.inputs import num_values, row_of_bytes, rows_of
from server.v2.parameters import parameters_of
from server.v2.request_schemas import InferRequest
from server.v2.wanted import OUTPUT_DATATYPES, Wanted, wanted

M = TypeVar("M", bound=BaseModel)

MAX_VALUES = 10_000
"""In names, ids and parameters, and around the data."""
MAX_NESTING = 64
RANK = 4
"""Of the arrays of numbers that are skipped whole; a batch of images has it."""


def arrays(rank: int) -> bytes:
    """The pattern of an array of numbers; a search reads no sign more often than `rank` + 1."""
    nested = rb"|" + arrays(rank - 1) if rank > 1 else b""
    return rb"\[(?:[\d\s,.eE+-]++%s)*+\]" % nested


STRINGS_OR_ARRAYS = re.compile(rb"%s|%s" % (STRINGS.pattern, arrays(RANK)), re.DOTALL)


@dataclass(frozen=True, slots=True)
class Inference:
    """A request understood: its rows, and what is wanted of them."""

    id: str | None
    rows: Contents | Arrays
    parameters: InferenceParameters
    outputs: list[Wanted]


def read_inference(
    body: bytes, header_length: str | None, manifest: Manifest, max_rows: int
) -> Inference:
    """Raises BadBody or BadParameter. `header_length` is Inference-Header-Content-Length."""
    if header_length == "0":
        return raw_inference(body, manifest)
    head, tail = split(body, header_length)
    request = parse(InferRequest, head, num_values(manifest, max_rows))
    return inference_of(request, tail, manifest, max_rows)


def inference_of(
    request: InferRequest, tail: memoryview, manifest: Manifest, max_rows: int
) -> Inference:
    """What a request asks for; its binary data is in `tail`. Raises BadBody or BadParameter."""
    parameters = dict(request.parameters)
    are_binary = parameters.pop("binary_data_output", False)
    if type(are_binary) is not bool:
        raise BadParameter("parameters.binary_data_output", "must be true or false")
    return Inference(
        id=request.id,
        rows=rows_of(request.inputs, tail, manifest, max_rows),
        parameters=parameters_of(parameters),
        outputs=wanted(request.outputs, manifest, are_binary=are_binary),
    )


def raw_inference(body: bytes, manifest: Manifest) -> Inference:
    """A request that is nothing but the bytes of one row; all outputs are binary."""
    outputs = [Wanted(name, is_binary=True) for name in OUTPUT_DATATYPES]
    return Inference(None, row_of_bytes(body, manifest), InferenceParameters(), outputs)


def split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON, and the binary data behind it."""
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
        raise BadBody("Inference-Header-Content-Length must be a number of bytes")
    num_bytes = int(header_length)
    if num_bytes > len(body):
        raise BadBody(f"Inference-Header-Content-Length exceeds the body's {len(body)} bytes")
    return body[:num_bytes], memoryview(body)[num_bytes:]


def parse(kind: type[M], content: bytes, max_values: int = 0) -> M:
    """JSON as a request of this kind, with so many values as data at most.

    Raises BadBody or BadParameter. A million values would keep the interpreter busy for a second.
    """
    check_size(content, max_values + MAX_VALUES, MAX_NESTING)
    check_keys(content)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first, *_ = errors = error.errors(include_url=False, include_input=False)
        if first["type"] == "json_invalid":
            raise BadBody(first["msg"]) from error
        raise BadParameter.of(errors) from error


def check_keys(content: bytes) -> None:
    """Raises BadBody where an object has a key twice; arrays of numbers are not looked into."""
    with suppress(ValueError):  # what is no JSON is refused by the parser itself
        json.loads(STRINGS_OR_ARRAYS.sub(without_numbers, content), object_pairs_hook=unique)


def without_numbers(found: re.Match[bytes]) -> bytes:
    """A string as it is, an array empty."""
    return found[0] if found[0].startswith(b'"') else b"[]"


def unique(pairs: list[tuple[str, object]]) -> None:
    """Raises BadBody unless every key is there once."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise BadBody("the JSON has a key twice")
        seen.add(key)
