import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadBody, BodyTooLarge, UnsupportedMedia
from server.http.compression import accepted_encoding, deflate, inflate

Convert = Callable[[bytes], bytes]
COMPRESS: dict[str, Convert] = {"gzip": gzip.compress, "deflate": zlib.compress}
DECOMPRESS: dict[str, Convert] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


@given(st.binary(), st.sampled_from(list(COMPRESS)))
def test_round_trip_with_pythons_own(content: bytes, encoding: str) -> None:
    assert inflate(COMPRESS[encoding](content), encoding, len(content)) == content
    assert DECOMPRESS[encoding](deflate(content, encoding)) == content


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_nothing_to_undo(encoding: str) -> None:
    assert inflate(b"content", encoding, 7) == b"content"


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "x", "zstd"])
def test_unknown_encoding(encoding: str) -> None:
    with pytest.raises(UnsupportedMedia):
        inflate(b"content", encoding, 100)


@pytest.mark.parametrize("encoding", list(COMPRESS))
def test_damaged_streams(encoding: str) -> None:
    whole = COMPRESS[encoding](b"content" * 100)
    for damaged in (b"", b"rubbish", whole[:-1], whole + b"x", whole[:10] + b"\xff" + whole[11:]):
        with pytest.raises(BadBody):
            inflate(damaged, encoding, 1000)


@given(st.binary(), st.sampled_from(list(COMPRESS)))
def test_any_bytes_are_read_or_refused(content: bytes, encoding: str) -> None:
    with suppress(BadBody, BodyTooLarge):
        assert len(inflate(content, encoding, 10)) <= 10


@pytest.mark.parametrize("encoding", list(COMPRESS))
def test_a_bomb_is_not_inflated(encoding: str) -> None:
    bomb = COMPRESS[encoding](bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            inflate(bomb, encoding, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("accepts", "num_bytes", "encoding"),
    [
        ("gzip", 1000, "gzip"),
        ("gzip, deflate", 1000, "gzip"),
        ("deflate;q=0.5, br", 1000, "deflate"),
        ("br, GZIP;q=0.1", 1000, "gzip"),
        ("gzip;q=0, deflate", 1000, "deflate"),
        ("gzip; q=0", 1000, None),
        ("gzip;q=0.000, deflate;q=0.001", 1000, "deflate"),
        ("", 1000, None),
        ("identity", 1000, None),
        ("gzip", 100, None),
    ],
)
def test_accepted_encoding(accepts: str, num_bytes: int, encoding: str | None) -> None:
    assert accepted_encoding(accepts, num_bytes) == encoding
