"""JSON bodies without duplicate keys; costly ones are refused before they are parsed."""

import json
from math import isinf
from typing import Any

from server.errors import BadBody

MAX_NESTING = 16
MAX_DIGITS = 40
NUM_PARAMETERS = 32
"""Values that a body may hold beside its images."""


def parse_object(body: bytes, max_images: int) -> dict[str, Any]:
    """A flat JSON object; raises BadBody.

    What could take long is refused by counting bytes, before parsing: images are base64, which has
    neither brackets nor commas. Then duplicate keys, numbers that are none, and text that is none.
    """
    if body.count(b"[") + body.count(b"{") > MAX_NESTING:
        raise BadBody("the JSON is nested too deeply")
    if body.count(b",") > max_images + NUM_PARAMETERS:
        raise BadBody("the JSON has too many values")
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
