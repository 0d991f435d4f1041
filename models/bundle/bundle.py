"""Reading a bundle from disk: whole and unaltered, or not at all."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from models.bundle.calibration import CALIBRATION, Calibration
from models.bundle.cost_profile import COST, CostProfile
from models.bundle.errors import UserError
from models.bundle.manifest import MANIFEST, Manifest
from models.bundle.records import File, Record
from models.bundle.text_input import TextInput

R = TypeVar("R", bound=Record)


class BundleError(UserError):
    """A bundle that must not be served; the message is one sentence naming the file."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file has been checked against its manifest.

    `graphs` holds the verified bytes of each ONNX file by name, so that what was checked is what
    runs. `tokenizer` holds those of a text model's tokenizer.json; it is empty for other models.
    """

    path: Path
    manifest: Manifest
    calibration: Calibration
    cost: CostProfile
    graphs: dict[str, bytes]
    tokenizer: bytes = b""


def load_bundle(path: Path) -> Bundle:
    """Reads and checks the bundle in directory `path`; raises BundleError."""
    if not path.is_dir():
        raise BundleError(f"{path} is not a bundle directory")
    manifest = _parse(Manifest, path / MANIFEST, _read(path / MANIFEST))
    calibration = _parse(Calibration, path / CALIBRATION, _verified(path, manifest.calibration))
    cost = _parse(CostProfile, path / COST, _verified(path, manifest.cost))
    costs = [part for all_ in (cost, *cost.shorter) for part in (all_.segments, all_.exit_heads)]
    for name, numbers in (
        (CALIBRATION, [fitted.exit for fitted in calibration.exits]),
        *((COST, [graph.exit for graph in part]) for part in costs),
    ):
        if numbers != [s.exit for s in manifest.segments]:
            raise BundleError(f"{path / name} must cover exits 1 to {manifest.num_exits}")
    if [part.length for part in cost.shorter] != list(manifest.input.length_buckets[:-1]):
        raise BundleError(f"{path / COST} must cover the lengths of {MANIFEST}")
    graphs = {g.file: _verified(path, g) for g in (*manifest.segments, *manifest.exit_heads)}
    takes = manifest.input
    tokenizer = _verified(path, takes.tokenizer) if isinstance(takes, TextInput) else b""
    return Bundle(path, manifest, calibration, cost, graphs, tokenizer)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def _verified(directory: Path, entry: File) -> bytes:
    path = directory / entry.file
    content = _read(path)
    if sha256(content) != entry.sha256:
        raise BundleError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}")
    return content


def _parse(kind: type[R], path: Path, content: bytes) -> R:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BundleError(f"{path} is invalid at {where}: {first['msg']}") from error
