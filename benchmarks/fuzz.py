"""Hostile requests: schemathesis against the live OpenAPI document, and damaged images.

python -m benchmarks.fuzz requests models/zoo --cases 10000
python -m benchmarks.fuzz images --cases 100000
"""

import io
import resource
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import schemathesis
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from benchmarks.process import serving
from models.bundle.manifest import Input
from server.decode import decode_image
from server.errors import BadImage, ImageTooLarge

KEY = "a-long-random-key"
SETTINGS: dict[str, Any] = {"api_key_hashes": sha256(KEY.encode()).hexdigest()}
EXCLUDED = [
    not_a_server_error,  # a strict request may get 503
    positive_data_acceptance,  # all that a document can ask of an image is that it is bytes
    ignored_auth,  # it sends the key where it means to send none
]
TARGET = Input(height=8, width=8, channels=3)
MAX_PIXELS = 10_000
CHUNK = 5_000
"""Cases after which hypothesis, which remembers them all, starts anew."""

app = typer.Typer()


@app.command()
def requests(
    zoo: Annotated[Path, typer.Argument(help="Bundles to serve.")], cases: int = 10_000
) -> None:
    """Prints how many requests got which status; fails where an answer breaks the document."""
    with serving(zoo, **SETTINGS) as server:
        codes = fuzz_requests(server.url, cases)
    print(f"{codes.total()} requests: {dict(sorted(codes.items()))}")


@app.command()
def images(cases: int = 100_000) -> None:
    """Prints what became of damaged images, and memory; fails on anything but two errors."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends = fuzz_images(cases)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{ends.total()} images: {dict(ends)}; peak memory grew by {grown / 1024:.0f} MiB")


def fuzz_requests(url: str, num_cases: int) -> Counter[int]:
    """Statuses of about as many requests, schema-valid and invalid.

    All operations that ask for something share them; the others are called once.
    """
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = list(document.get_all_operations())
    operations = [result.ok() for result in found if isinstance(result, Ok)]
    assert len(operations) == len(found), "an operation that schemathesis cannot read"
    asking = [o for o in operations if o.body or any(True for _ in o.iter_parameters())]
    codes: Counter[int] = Counter()
    for operation in operations:
        if operation not in asking:
            fuzz_operation(operation.as_strategy(), 1, codes)
            continue
        for mode in schemathesis.GenerationMode:
            cases = operation.as_strategy(generation_mode=mode)
            fuzz_operation(cases, num_cases // (2 * len(asking)), codes)
    return codes


def fuzz_operation(
    cases: "st.SearchStrategy[schemathesis.Case[Any]]", num_cases: int, codes: Counter[int]
) -> None:
    @given(case=cases)
    @patient(num_cases)
    def validate(case: "schemathesis.Case[Any]") -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        said = case.call_and_validate(headers=headers, excluded_checks=EXCLUDED)
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


def damaged() -> st.SearchStrategy[bytes]:
    """Files of every format and several modes with bytes changed, cut out and put in."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    files = []
    for kind, modes in {"PNG": ("1", "L", "P", "RGBA"), "JPEG": ("L", "RGB", "CMYK")}.items():
        files += [encoded(Image.fromarray(pixels).convert("RGB").convert(m), kind) for m in modes]
    files += [encoded(Image.fromarray(pixels), "WEBP", lossless=flag) for flag in (True, False)]
    edit = st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8))
    edits = st.lists(edit, min_size=1, max_size=6)
    return st.builds(edited, st.sampled_from(files), edits) | st.binary(max_size=200)


def edited(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """Each edit puts new bytes for a number of old ones, at a share of the length."""
    for share, num_old, new in edits:
        start = int(share * len(content))
        content = content[:start] + new + content[start + num_old :]
    return content


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def patient(num_cases: int) -> settings:
    """New cases each time, however slow."""
    return settings(
        max_examples=num_cases, deadline=None, database=None, suppress_health_check=[*HealthCheck]
    )


if __name__ == "__main__":
    app()
