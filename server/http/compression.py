"""Compressed request and response bodies: gzip and deflate, which is zlib's format on HTTP."""

import zlib

from server.errors import BadBody, BodyTooLarge, UnsupportedMedia
from server.http.accepting import accepted

WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
FAST = 1
WORTH_COMPRESSING_BYTES = 500


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without its content encoding.

    Never holds more than `max_bytes` and one: raises BodyTooLarge where the content has more. Also
    raises UnsupportedMedia and BadBody.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in WINDOW_BITS:
        raise UnsupportedMedia(
            f"content encoding {encoding!r}; served are {', '.join(WINDOW_BITS)}"
        )
    stream = zlib.decompressobj(WINDOW_BITS[encoding])
    try:
        content = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BadBody(f"the body is no {encoding} stream: {error}") from error
    if len(content) > max_bytes:
        raise BodyTooLarge(f"the body inflates to more than {max_bytes} bytes")
    if not stream.eof or stream.unused_data:
        raise BadBody(f"the body is not one whole {encoding} stream")
    return content


def accepted_encoding(accept_encoding: str, num_bytes: int) -> str | None:
    """The first of our encodings that a client accepts; None for a small body."""
    if num_bytes < WORTH_COMPRESSING_BYTES:
        return None
    return next((name for name in accepted(accept_encoding) if name in WINDOW_BITS), None)


def deflate(body: bytes, encoding: str) -> bytes:
    """The body in a content encoding of ours."""
    stream = zlib.compressobj(FAST, zlib.DEFLATED, WINDOW_BITS[encoding])
    return stream.compress(body) + stream.flush()
