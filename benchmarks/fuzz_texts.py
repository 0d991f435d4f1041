"""Damaged texts and rows of numbers, as they are sent to `/v1` and to `/v2`."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.damage import CHUNK, EDITS, LIMITS, edited, patient
from benchmarks.small_bundles import write_row_bundle, write_tensor_bundle, write_text_bundle
from models.bundle.records import LENGTH
from server.engine.job import Given
from server.engine.model import ServedModel
from server.engine.pace import Decoding
from server.errors import BadBody, BadParameter, BodyTooLarge, TextTooLong, UnsupportedMedia
from server.http.contents import Contents, encoded
from server.http.rows import Arrays
from server.http.texts import text_of
from server.running import Encoded
from server.v1.reading import contents_of
from server.v2.requests import read_inference
from server.zoo.catalog import serve_bundle

PROTOCOLS = ("text", "json", "v2", "v2 binary")
END = b"}]}"
"""Of the JSON before binary data."""
HEBREW = "\u05e9\u05dc\u05d5\u05dd"
ODD_TEXTS = st.text(st.characters(), max_size=40) | st.sampled_from(
    (
        "what is my balance",
        "a\0b",
        "half \ud800 a pair",
        f"\u202e{HEBREW}\u202c",
        "e" + 100 * "\u0301",
        10_000 * "a",
        100 * "rain ",
        " \n",
        "",
    )
)
NUMBERS = st.floats() | st.integers() | st.integers(-(10**60), 10**60) | st.integers(0, 2)
ODD_VALUES = st.recursive(
    NUMBERS | st.none() | st.booleans() | st.text(max_size=3),
    lambda values: st.lists(values, max_size=4),
    max_leaves=6,
) | st.lists(st.floats(-9, 9), min_size=3, max_size=3)
"""What JSON can say, NaN and infinities too."""


def small_models(zoo: Path) -> list[ServedModel]:
    """A model of texts, and two of numbers."""
    writers = write_text_bundle, write_tensor_bundle, write_row_bundle
    return [serve_bundle(write(zoo), LIMITS) for write in writers]


def fuzz_texts(served: list[ServedModel], num_cases: int) -> Counter[str]:
    """What became of texts and rows with random damage: decoded, or which error."""
    ends: Counter[str] = Counter()

    @given(model=st.sampled_from(served), body=damaged_texts(), protocol=st.sampled_from(PROTOCOLS))
    @patient(min(num_cases, CHUNK))
    def read(model: ServedModel, body: bytes, protocol: str) -> None:
        try:
            rows = rows_of(model, body, protocol)
        except (BadBody, BadParameter, BodyTooLarge, TextTooLong, UnsupportedMedia) as error:
            ends[type(error).__name__] += 1
            return
        assert 1 <= len(rows) <= LIMITS.limits.max_images
        for row in rows:
            for array, tensor in zip(row.arrays, model.runner.inputs, strict=True):
                sizes = [row.length if size == LENGTH else size for size in tensor.shape[1:]]
                assert list(array.shape[1:]) == sizes
                assert array.dtype.name == tensor.dtype
                assert np.isfinite(array[row.index]).all()
        ends["decoded"] += 1

    while ends.total() < num_cases:
        read()
    return ends


def rows_of(model: ServedModel, body: bytes, protocol: str) -> Sequence[Given]:
    """The rows that a body holds for a model, as both protocols read it."""
    if protocol == "text":
        contents = Contents("text", [text_of(body, "text")], media_type="text/plain")
    elif protocol == "json":
        contents, _ = contents_of(body, LIMITS.limits.max_images)
    else:
        length = None if protocol == "v2" else str(body.find(END) + len(END))
        asked = read_inference(body, length, model.manifest, LIMITS.limits.max_images)
        if isinstance(asked.rows, Arrays):
            return decoded(asked.rows)
        contents = asked.rows
    return decoded(encoded(contents, model, LIMITS, Decoding()))


def decoded(rows: Encoded) -> list[Given]:
    return [row for part in rows.parts() for row in part()]


@st.composite
def damaged_texts(draw: st.DrawFn) -> bytes:
    """Texts and rows, plain or in the JSON of either protocol, damaged or not."""
    values = st.lists(ODD_TEXTS | ODD_VALUES, min_size=1, max_size=3)
    name, shape = draw(st.sampled_from((("text", []), ("x", [3]), ("numbers", [3]))))
    datatype = draw(st.sampled_from(("BYTES", "FP32", "INT64")))
    rows = draw(values)
    tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(rows), *shape]}
    tail = b""
    if draw(st.booleans()):
        tail = b"".join(said(row) for row in rows)
        tensor["parameters"] = {"binary_data_size": len(tail)}
    else:
        tensor["data"] = rows
    bodies: list[Any] = [{"texts": rows}, {"rows": rows}, {"inputs": [tensor]}]
    bodies += [{"rows": [{"numbers": row, "colour": draw(ODD_VALUES)} for row in rows]}]
    content = json.dumps(draw(st.sampled_from(bodies))).encode() + tail
    content = draw(st.just(content) | ODD_TEXTS.map(lambda text: text.encode("utf-8", "replace")))
    return edited(content, draw(EDITS)) if draw(st.booleans()) else content


def said(row: object) -> bytes:
    """A row as binary data: the numbers that it is made of, or a text after its length."""
    if isinstance(row, str):
        text = row.encode("utf-8", "surrogatepass")
        return len(text).to_bytes(4, "little") + text
    numbers = row if isinstance(row, list) else [row]
    fine = [number for number in numbers if type(number) is float]
    with np.errstate(over="ignore"):
        return np.array(fine).astype("<f4").tobytes()
