"""The bundles this server serves."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from models.bundle.bundle import Bundle, BundleError, load_bundle
from models.bundle.costs import Costs
from models.bundle.energy import Rapl
from models.bundle.manifest import CostProfile, Manifest, OperatingPoint, version_of
from models.bundle.runner import SegmentRunner
from server.breaker import Breaker
from server.errors import UnknownModel
from server.measuring import measured
from server.settings import Settings

DEFAULT_OPERATING_POINT = "balanced"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ServedModel:
    """A loaded bundle, ready to run, with this host's cost profile.

    There is a breaker per exit for its segment (False) and its head (True).
    """

    bundle: Bundle
    runner: SegmentRunner
    profile: CostProfile
    costs: Costs
    breakers: dict[tuple[int, bool], Breaker] = field(default_factory=lambda: defaultdict(Breaker))

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def energy_source(self) -> str:
        """Where every number of joules comes from."""
        return self.profile.energy_method

    @property
    def operating_points(self) -> dict[str, OperatingPoint]:
        return self.bundle.calibration.operating_points

    @property
    def default_point(self) -> OperatingPoint:
        """What decides where a request names neither an operating point nor a threshold."""
        return self.operating_points[DEFAULT_OPERATING_POINT]


def serve_bundle(path: Path, settings: Settings, meter: Rapl | None = None) -> ServedModel:
    """Loads a bundle, runs every graph and measures its cost here; raises BundleError."""
    bundle = load_bundle(path)
    manifest = bundle.manifest
    if (manifest.name, str(manifest.version)) != (path.parent.name, path.name):
        raise BundleError(
            f"{path} holds {manifest.name} version {manifest.version}; "
            "its directories must be named for it"
        )
    if DEFAULT_OPERATING_POINT not in bundle.calibration.operating_points:
        raise BundleError(f"{path} has no operating point named {DEFAULT_OPERATING_POINT}")
    try:
        runner = SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs)
        profile = measured(bundle, runner, settings, meter)
    except Exception as error:  # onnxruntime's errors have no common base
        raise BundleError(f"{path} cannot be run: {error}") from error
    return ServedModel(bundle, runner, profile, Costs(profile))


def bundle_paths(zoo: Path) -> list[Path]:
    """Every NAME/VERSION directory under `zoo`, versions rising; raises BundleError without any."""
    if not zoo.is_dir():
        raise BundleError(f"{zoo} is not a directory")
    versions = {path: version_of(path.name) for path in zoo.glob("*/*") if path.is_dir()}
    found = sorted((p.parent, version, p) for p, version in versions.items() if version)
    if not found:
        raise BundleError(f"{zoo} holds no bundle: none of its directories is NAME/VERSION")
    return [path for _, _, path in found]


class Catalog:
    """Served models by name and version. The default version is the highest."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, ServedModel]] = {}

    def add(self, model: ServedModel) -> None:
        versions = self._models.setdefault(model.manifest.name, {})
        versions[model.manifest.version] = model

    def __iter__(self) -> Iterator[ServedModel]:
        return (model for versions in self._models.values() for model in versions.values())

    def names(self) -> list[str]:
        return sorted(self._models)

    def versions(self, name: str) -> list[ServedModel]:
        """Every version of a model, lowest first; empty for an unknown name."""
        return [model for _, model in sorted(self._models.get(name, {}).items())]

    def find(self, name: str | None, version: int | None) -> ServedModel:
        """The model asked for; without a name there must be only one. Raises UnknownModel."""
        if name is None:
            if len(self._models) > 1:
                raise UnknownModel(f"one of {', '.join(self.names())} must be named", "model")
            (name,) = self._models
        versions = self.versions(name)
        if not versions:
            raise UnknownModel(f"{name!r} is none of {', '.join(self.names())}", "model")
        for model in reversed(versions):
            if version in (None, model.manifest.version):
                return model
        known = ", ".join(str(model.manifest.version) for model in versions)
        raise UnknownModel(f"{name} has no version {version}, only {known}", "version")
