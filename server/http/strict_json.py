"""JSON bodies without duplicate keys; costly ones are refused before they are parsed."""

import json
import re
from math import isinf
from typing import Any

import numpy as np

from server.errors import BadBody

MAX_NESTING = 16
MAX_DIGITS = 40
MAX_VALUES = 20_000
"""Values that are parsed and checked in some ten milliseconds."""
FEW, FEW_BYTES = 100, 65_536
"""Commas and bytes of a body that needs no closer look."""
STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""A string, or what is to be one."""
STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
NO_BRACKETS = bytes(set(range(256)).difference(b"[{]}"))


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object; raises BadBody.

    What could take long is refused by counting bytes, before parsing. Then duplicate keys, numbers
    that are none, and text that is none, but for the elements of lists.
    """
    check_size(body, MAX_VALUES, MAX_NESTING)
    try:
        parsed = json.loads(
            body.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_int=_short_number,
            parse_float=_finite_number,
        )
    except ValueError as error:  # of text that is no UTF-8 or has lone surrogates too
        raise BadBody(f"the JSON cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise BadBody("the JSON is no object")
    return parsed


def is_large(body: bytes) -> bool:
    """Whether a body has more than few bytes, or values: commas and brackets in strings count."""
    return len(body) > FEW_BYTES or max(num_lists(body), body.count(b",")) > FEW


def check_size(body: bytes, max_values: int, max_nesting: int) -> None:
    """Raises BadBody for JSON with more values, or more lists and objects within each other.

    Only where there may be too many are strings left out, of which there must not be too many.
    """
    if max(num_lists(body), body.count(b",")) > max_values:
        num_quotes = body.count(b'"') - body.count(b'\\"')
        if num_quotes <= 2 * max_values:
            body = STRINGS.sub(b"", body)
        if max(num_lists(body), body.count(b",")) > max_values:
            raise BadBody(f"the JSON has more values than any request needs: {max_values}")
    if num_lists(body) > max_nesting and nesting(STRINGS.sub(b"", body)) > max_nesting:
        raise BadBody("the JSON is nested too deeply")


def num_lists(body: bytes) -> int:
    """How many lists and objects there are at most."""
    return body.count(b"[") + body.count(b"{")


def nesting(content: bytes) -> int:
    """How many brackets are open at once at most; those in text count too."""
    steps = np.frombuffer(content.translate(STEPS, NO_BRACKETS), np.int8)
    return int(steps.cumsum(dtype=np.int64).max(initial=0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key is given twice")
    for text in (*fields, *fields.values()):
        if isinstance(text, str):
            text.encode()
    return fields


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _short_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number has too many digits")
    return int(digits)


def _finite_number(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError("a number is too large")
    return number
