"""Chooses how many processes serve, where no setting does."""

from pathlib import Path

from pydantic import ValidationError

from models.bundle.cost_profile import COST, CostProfile
from models.bundle.defaults import CPU, SHORT_STEP_S
from models.bundle.errors import UserError
from server.settings import NUM_CORES, Settings
from server.zoo.directory import find_bundles

SHORT_S = 0.05
"""A network that takes longer for one row runs on threads, unless every step of it is short: waking
a thread costs little beside such a row, and one process holds the weights once for all cores."""


def num_processes(settings: Settings) -> int:
    """The setting; else for short networks one per `workers` cores, and one for all others."""
    if settings.cores.processes is not None:
        return settings.cores.processes
    if settings.cores.execution_provider != CPU or not any(map(is_short, costs(settings))):
        return 1
    workers = settings.cores.workers if "workers" in settings.cores.model_fields_set else 1
    return max(1, NUM_CORES // workers)


def costs(settings: Settings) -> list[CostProfile]:
    """The cost profiles in the bundles. Loading refuses those that cannot be read."""
    found = []
    try:
        for path in find_bundles(settings.models.zoo).values():
            found += read(path / COST)
    except UserError:
        return []
    return found


def read(path: Path) -> list[CostProfile]:
    try:
        return [CostProfile.model_validate_json(path.read_bytes())]
    except (OSError, ValidationError):
        return []


def is_short(cost: CostProfile) -> bool:
    """Whether one row takes less than SHORT_S to the last exit, or all steps run on the loop."""
    segments, heads = (
        [graph.median_s[0] for graph in of] for of in (cost.segments, cost.exit_heads)
    )
    steps = [segment + head for segment, head in zip(segments, heads, strict=True)]
    return sum(segments) + heads[-1] < SHORT_S or max(steps) < SHORT_STEP_S
