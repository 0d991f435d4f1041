"""Hostile requests: schemathesis against the live OpenAPI document, damaged images, tensors, texts.

python -m benchmarks.fuzz requests models/zoo --cases 10000
python -m benchmarks.fuzz images --cases 100000
python -m benchmarks.fuzz tensors models/zoo/cifar100-msdnet/7 --cases 100000
python -m benchmarks.fuzz texts --cases 100000
"""

import gzip
import io
import json
import os
import resource
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import schemathesis
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from benchmarks.damage import CHUNK, EDITS, LIMITS, edited, patient
from benchmarks.fuzz_texts import fuzz_texts, small_models
from benchmarks.process import resident_mib, serving
from models.bundle.bundle import load_bundle
from models.bundle.image_input import ImageInput
from models.bundle.manifest import Key, Manifest
from models.bundle.profile import hardware
from server.errors import (
    BadBody,
    BadImage,
    BadParameter,
    BodyTooLarge,
    ImageTooLarge,
    UnsupportedMedia,
)
from server.http.compression import inflate
from server.http.decode import bound_decoders, decode_image
from server.http.rows import Arrays
from server.v2.requests import read_inference
from server.zoo.directory import find_bundles

KEY = "a-long-random-key"
HASH = sha256(KEY.encode()).hexdigest()
SETTINGS: dict[str, Any] = {"api_key_hashes": HASH, "management_key_hashes": HASH}
EXCLUDED = [
    not_a_server_error,  # a strict request may get 503
    positive_data_acceptance,  # all that a document can ask of an image is that it is bytes
    ignored_auth,  # it sends the key where it means to send none
]
NO_HTTP = b"Invalid HTTP request received."
"""Said below the application, of headers that break HTTP itself: no document covers it."""
TARGET = ImageInput(height=8, width=8, channels=3)
MAX_PIXELS = 10_000
COMPRESSIONS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("", bytes),
    ("gzip", partial(gzip.compress, compresslevel=1)),
    ("deflate", zlib.compress),
    ("br", bytes),
)
Sent = tuple[bytes, str, str | None]
"""A body, its content encoding, and Inference-Header-Content-Length."""
MAX_GROWTH_MIB = 32
"""How much memory may grow after the first CHUNK."""

app = typer.Typer()


@app.command()
def requests(
    zoo: Annotated[Path, typer.Argument(help="Bundles to serve.")], cases: int = 10_000
) -> None:
    """Prints how many requests got which status; fails where an answer breaks the document."""
    with serving(zoo, **SETTINGS) as server:
        before = resident_mib(server.process.pid)
        codes = fuzz_requests(server.url, cases, [*find_bundles(zoo)])
        after = resident_mib(server.process.pid)
    print(f"{hardware()}: {codes.total()} requests: {dict(sorted(codes.items()))}")
    print(f"resident {before:.1f} MiB when ready, {after:.1f} MiB at the end")


@app.command()
def images(cases: int = 100_000) -> None:
    """Prints what became of damaged images, and memory; fails on anything but two errors."""
    bound_decoders(MAX_PIXELS)
    watch_memory(fuzz_images, cases)


@app.command()
def tensors(
    bundle: Annotated[Path, typer.Argument(help="Its input is what requests are made for.")],
    cases: int = 100_000,
) -> None:
    """The same of damaged bodies of `/v2`, binary, JSON and raw, compressed and not."""
    manifest = load_bundle(bundle).manifest
    watch_memory(lambda num_cases: fuzz_tensors(manifest, num_cases), cases)


@app.command()
def texts(cases: int = 100_000) -> None:
    """The same of damaged texts and rows of numbers, as they are sent to `/v1` and to `/v2`."""
    with TemporaryDirectory() as zoo:
        served = small_models(Path(zoo))
        watch_memory(lambda num_cases: fuzz_texts(served, num_cases), cases)


def watch_memory(fuzz: Callable[[int], Counter[str]], num_cases: int) -> None:
    """Fails where memory grows after the first chunk, which loads what decoding needs."""
    ends = fuzz(CHUNK)
    warm = resident_mib(os.getpid())
    ends += fuzz(max(1, num_cases - ends.total()))
    end = resident_mib(os.getpid())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{hardware()}: {ends.total()} bodies: {dict(ends)}")
    print(f"resident {warm:.1f} MiB after {CHUNK}, {end:.1f} MiB at the end, at most {peak:.1f}")
    if end - warm > MAX_GROWTH_MIB:
        raise SystemExit(f"memory grew by {end - warm:.1f} MiB")


def fuzz_requests(url: str, num_cases: int, served: list[Key]) -> Counter[int]:
    """Statuses of about as many requests, schema-valid and invalid.

    All operations that ask for something share them; the others are called once. Paths and queries
    name a model that is served every other time, or hardly any request would get beyond its name.
    """
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = list(document.get_all_operations())
    operations = [result.ok() for result in found if isinstance(result, Ok)]
    assert len(operations) == len(found), "an operation that schemathesis cannot read"
    asking = [o for o in operations if o.body or any(True for _ in o.iter_parameters())]
    codes: Counter[int] = Counter()
    for operation in operations:
        if operation not in asking:
            fuzz_operation(operation.as_strategy(), 1, served, codes)
            continue
        for mode in schemathesis.GenerationMode:
            cases = operation.as_strategy(generation_mode=mode)
            fuzz_operation(cases, num_cases // (2 * len(asking)), served, codes)
    return codes


def fuzz_operation(
    cases: "st.SearchStrategy[schemathesis.Case[Any]]",
    num_cases: int,
    served: list[Key],
    codes: Counter[int],
) -> None:
    @given(case=cases, key=st.none() | st.sampled_from(served))
    @patient(num_cases)
    def validate(case: "schemathesis.Case[Any]", key: Key | None) -> None:
        if key is not None and not case.path.endswith("/unload"):
            named = {"name": key[0], "version": str(key[1])}
            case.path_parameters |= {k: named[k] for k in case.path_parameters.keys() & named}
            if case.path == "/v1/classify":
                case.query = (case.query or {}) | {"model": key[0]}
        headers = {"authorization": f"Bearer {KEY}"}
        said = case.call(headers=headers)
        if said.content != NO_HTTP:
            case.validate_response(said, excluded_checks=EXCLUDED)
        assert said.status_code < 500 or said.status_code == 503
        codes[said.status_code] += 1

    validate()


def fuzz_images(num_cases: int) -> Counter[str]:
    """What became of real images with random damage: decoded, or which error."""
    ends: Counter[str] = Counter()

    @given(damaged())
    @patient(min(num_cases, CHUNK))
    def decode(content: bytes) -> None:
        try:
            decoded = decode_image(content, TARGET, MAX_PIXELS)
        except (BadImage, ImageTooLarge) as error:
            ends[type(error).__name__] += 1
        else:
            assert decoded.shape == (8, 8, 3)
            assert decoded.dtype == np.uint8
            ends["decoded"] += 1

    while ends.total() < num_cases:
        decode()
    return ends


def fuzz_tensors(manifest: Manifest, num_cases: int) -> Counter[str]:
    """What became of good requests with random damage: understood, or which error."""
    ends: Counter[str] = Counter()
    _, *shape = manifest.segments[0].inputs[0].shape

    @given(sent=damaged_requests(shape))
    @patient(min(num_cases, CHUNK))
    def read(sent: Sent) -> None:
        body, encoding, length = sent
        try:
            content = inflate(body, encoding, LIMITS.limits.max_body_bytes)
            asked = read_inference(content, length, manifest, LIMITS.limits.max_images)
        except (BadBody, BadParameter, BodyTooLarge, UnsupportedMedia) as error:
            ends[type(error).__name__] += 1
        else:
            if isinstance(asked.rows, Arrays):
                ((rows, *rest),) = (array.shape for array in asked.rows.arrays)
                assert 1 <= rows <= LIMITS.limits.max_images
                assert rest == shape
                assert asked.rows.arrays[0].dtype == np.uint8
            ends["understood"] += 1

    while ends.total() < num_cases:
        read()
    return ends


@st.composite
def damaged_requests(draw: st.DrawFn, shape: list[int]) -> Sent:
    """Binary, JSON or raw requests, damaged before or after they are compressed, or not at all.

    The length of the JSON is announced as it is after the damage, most of the time.
    """
    rows = draw(st.integers(1, LIMITS.limits.max_images))
    pixels = bytes(draw(st.binary(min_size=1, max_size=8))) * (rows * prod(shape))
    content = pixels[: rows * prod(shape)]
    tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": [rows, *shape]}
    kind = draw(st.sampled_from(("binary", "json", "raw")))
    if kind == "json":
        tensor["data"] = list(content)
    else:
        tensor["parameters"] = {"binary_data_size": len(content)}
    asked = {"id": "7", "inputs": [tensor], "parameters": {"timeout": 20_000, "max_exit": 2}}
    asked["outputs"] = [{"name": "exit", "parameters": {"binary_data": True}}]
    head, tail = json.dumps(asked).encode(), b"" if kind == "json" else content
    if kind == "raw":
        head = b""
    head, tail = (
        edited(part, draw(EDITS)) if draw(st.booleans()) else part for part in (head, tail)
    )
    lengths = st.sampled_from((None, "", "-1", str(2**31))) | st.integers(0, 2**16).map(str)
    length = draw(st.just(str(len(head))) | st.just(str(len(head))) | lengths)
    encoding, compress = draw(st.sampled_from(COMPRESSIONS))
    body = compress(head + tail)
    return edited(body, draw(EDITS)) if draw(st.integers(0, 3)) == 0 else body, encoding, length


def damaged() -> st.SearchStrategy[bytes]:
    """Files of every format and several modes with bytes changed, cut out and put in."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    files = []
    for kind, modes in {"PNG": ("1", "L", "P", "RGBA"), "JPEG": ("L", "RGB", "CMYK")}.items():
        files += [encoded(Image.fromarray(pixels).convert("RGB").convert(m), kind) for m in modes]
    files += [encoded(Image.fromarray(pixels), "WEBP", lossless=flag) for flag in (True, False)]
    return st.builds(edited, st.sampled_from(files), EDITS) | st.binary(max_size=200)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


if __name__ == "__main__":
    app()
