import json

import pytest

from server.errors import BadBody
from server.http.strict_json import parse_object

MEGABYTES = 2**20


def test_what_is_well_formed_is_read() -> None:
    body = {"images": ["AAAA", "BBBB"], "top_k": 3, "model": "ö", "trace": None, "threshold": 0.5}
    assert parse_object(json.dumps(body).encode()) == body
    assert parse_object(json.dumps(body, ensure_ascii=False, indent=2).encode()) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"1",
        b'{"images": [',
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a": ' + b"9" * 41 + b"}",
        b'{"images": ["' + b"A" * 8 * MEGABYTES,
    ],
    ids=lambda body: body[:20],
)
def test_what_is_not_is_refused(body: bytes) -> None:
    with pytest.raises(BadBody):
        parse_object(body)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 8 * MEGABYTES,
        b'{"a":' * MEGABYTES,
        b'{"images":[' + b"1," * 4 * MEGABYTES + b"1]}",
        b"{" + b",".join(b'"k%d":1' % key for key in range(500_000)) + b"}",
        b'{"top_k":' + b"9" * 8 * MEGABYTES + b"}",
        b'{"top_k":1e' + b"9" * 8 * MEGABYTES + b"}",
    ],
    ids=["deep", "deep objects", "long", "keys", "digits", "exponent"],
)
def test_hostile_json_costs_little(body: bytes) -> None:
    with pytest.raises(BadBody):  # within milliseconds; a parser and a schema take up to a minute
        parse_object(body)
