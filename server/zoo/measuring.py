"""A bundle's cost profile on this host, measured once and kept."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
from pydantic import ValidationError

from models.bundle.bundle import Bundle
from models.bundle.cost_profile import CostProfile
from models.bundle.energy import Meter
from models.bundle.profile import hardware, measure, warmed_up
from models.bundle.runner import SegmentRunner
from server.settings import Settings

logger = logging.getLogger("offramp")


def measured(
    bundle: Bundle,
    runner: SegmentRunner,
    settings: Settings,
    meter: Meter | None,
    progress: Callable[[], object] = lambda: None,
) -> CostProfile:
    """The kept profile of this bundle on this host, or a new one, measured with `progress`."""
    takes = bundle.manifest.input
    lengths = takes.length_buckets
    path = settings.models.cache / f"{key(bundle, settings, meter)}.json"
    try:
        profile = CostProfile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        pass
    else:
        for length in lengths or (0,):  # so that no request is the first
            sizes, max_s = profile.batch_sizes[:1], settings.models.profile_s
            warmed_up(runner, sizes, max_s, length, takes.least)
        return profile
    about_s, kept_in = settings.models.profile_s, path.parent
    logger.info(
        "measuring %s: at most about %g s, once on this host; %s keeps the costs",
        bundle.manifest.name,
        about_s,
        kept_in,
    )
    profile = measure(
        runner,
        lengths=lengths,
        least=takes.least,
        max_s=about_s,
        watts=settings.cores.watts_per_core,
        meter=meter,
        progress=progress,
    )
    try:
        keep(profile, path)
    except OSError as error:
        logger.info("measured costs are not kept: %s", error)
    return profile


def key(bundle: Bundle, settings: Settings, meter: Meter | None) -> str:
    """Names everything that a measurement depends on; the manifest has the graphs' hashes."""
    manifest = bundle.manifest
    facts = (
        manifest.model_dump_json(),
        hardware(),
        ort.__version__,
        settings.cores.execution_provider,
        settings.cores.watts_per_core,
        settings.models.profile_s,
        meter is not None,
    )
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return f"{manifest.name}-{manifest.version}-{digest[:16]}"


def keep(profile: CostProfile, path: Path) -> None:
    """Writes aside and renames, so that a reader finds a whole profile or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        written = Path(aside) / path.name
        written.write_text(profile.model_dump_json(indent=1))
        written.replace(path)
