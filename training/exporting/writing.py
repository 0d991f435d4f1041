"""A bundle's directory, built aside and renamed into place: it exists whole or not at all."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from models.bundle.bundle import Bundle, load_bundle, sha256
from models.bundle.calibration import CALIBRATION, Calibration
from models.bundle.cost_profile import COST, CostProfile
from models.bundle.manifest import MANIFEST, MODEL_NAME, AnyInput, Manifest, Provenance
from models.bundle.records import SCHEMA_VERSION, File, Record
from training.exporting.graphs import ExportError
from training.exporting.quantize import Graphs


def free_place(zoo: Path, name: str, version: int) -> Path:
    """Where the bundle will be; raises ExportError for a name that is none or a place taken."""
    if not re.fullmatch(MODEL_NAME, name):
        raise ExportError(f"{name!r} is no model name: it takes letters, digits, '.', '_' and '-'")
    target = zoo / name / str(version)
    if target.exists():
        raise ExportError(f"{target} exists; bundles are immutable, choose another version")
    return target


@contextmanager
def built_aside(target: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `target` unless something goes wrong."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield aside
        aside.chmod(0o755)
        os.rename(aside, target)
    except BaseException:
        shutil.rmtree(aside)
        raise


def write_bundle(
    directory: Path,
    graphs: Graphs,
    calibration: Calibration,
    cost: CostProfile,
    *,
    name: str,
    version: int,
    input: AnyInput,
    labels: Sequence[str],
    provenance: Provenance,
) -> Bundle:
    """Fills `directory`, where a tokenizer lies already, and reads it as a server would."""
    segments, heads, content = graphs
    for file, graph in content.items():
        (directory / file).write_bytes(graph)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        version=version,
        input=input,
        labels=tuple(labels),
        segments=tuple(segments),
        exit_heads=tuple(heads),
        calibration=write_record(directory, CALIBRATION, calibration),
        cost=write_record(directory, COST, cost),
        provenance=provenance,
    )
    write_record(directory, MANIFEST, manifest)
    return load_bundle(directory)


def write_record(directory: Path, file: str, record: Record) -> File:
    content = (record.model_dump_json(indent=1) + "\n").encode()
    (directory / file).write_bytes(content)
    return File(file=file, sha256=sha256(content))
