"""The bundles this server serves."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from models.bundle.bundle import BundleError, load_bundle
from models.bundle.costs import Costs
from models.bundle.energy import Meter
from models.bundle.manifest import Key, Manifest
from models.bundle.runner import SegmentRunner
from models.bundle.text import TextReader
from models.bundle.text_input import TextInput
from server.engine.model import DEFAULT_OPERATING_POINT, ServedModel
from server.errors import Draining, NotReady, UnknownModel
from server.settings import Settings
from server.zoo.directory import Signature
from server.zoo.measuring import measured

BATCH_OVERHEAD_S = 0.0003
"""What a batch is expected to take beyond its graphs, until it is known."""


def serve_bundle(
    path: Path,
    settings: Settings,
    meter: Meter | None = None,
    current: ServedModel | None = None,
    check_open: Callable[[], object] = lambda: None,
) -> ServedModel:
    """Loads a bundle, runs every graph and measures its cost here; raises BundleError.

    `check_open` is asked after each round of the measurement, and may end it by raising Draining.
    Where `current` is the same bundle, it is returned; where only what is around the graphs is new,
    labels or operating points, they go on in the sessions that `current` has.
    """
    bundle = load_bundle(path)
    manifest = bundle.manifest
    if (manifest.name, str(manifest.version)) != (path.parent.name, path.name):
        raise BundleError(
            f"{path} holds {manifest.name} version {manifest.version}; "
            "its directories must be named for it"
        )
    if DEFAULT_OPERATING_POINT not in bundle.calibration.operating_points:
        raise BundleError(f"{path} has no operating point named {DEFAULT_OPERATING_POINT}")
    if current is not None:
        if manifest == current.manifest:
            return current
        if graphs_of(manifest) == graphs_of(current.manifest):
            return replace(current, bundle=bundle)
    takes = manifest.input
    try:
        reader = TextReader(bundle.tokenizer, takes) if isinstance(takes, TextInput) else None
        runner = SegmentRunner(
            manifest.segments, manifest.exit_heads, bundle.graphs, settings.cores.execution_provider
        )
        profile = measured(bundle, runner, settings, meter, check_open)
    except Draining:
        raise
    except Exception as error:  # onnxruntime's errors have no common base
        raise BundleError(f"{path} cannot be run: {error}") from error
    lengths = [part.length for part in profile.shorter]
    return ServedModel(
        bundle,
        runner,
        profile,
        Costs(profile, BATCH_OVERHEAD_S),
        {length: Costs(profile.of_length(length), BATCH_OVERHEAD_S) for length in lengths},
        reader,
    )


def graphs_of(manifest: Manifest) -> tuple[object, ...]:
    """Everything that decides what its sessions compute; graphs are compared by their hashes."""
    return manifest.input, manifest.segments, manifest.exit_heads


class Catalog:
    """Served models by name and version. The default version is the highest.

    `reasons` say of versions on disk why they are not served, or why their newer copy is not.
    `on_left` is told every model that is removed or replaced. `signatures` are of what was on disk
    before any of it was loaded.
    """

    def __init__(self) -> None:
        self.signatures: dict[Key, Signature] = {}
        self.on_left: Callable[[ServedModel], object] = lambda _: None
        self.reasons: dict[Key, str] = {}
        self._models: dict[str, dict[int, ServedModel]] = {}

    def add(self, model: ServedModel) -> None:
        versions = self._models.setdefault(model.manifest.name, {})
        previous = versions.get(model.manifest.version)
        versions[model.manifest.version] = model
        if previous is not None and previous is not model:
            self.on_left(previous)

    def remove(self, model: ServedModel) -> None:
        """Jobs that hold the model go on with it."""
        name, version = model.key
        del self._models[name][version]
        if not self._models[name]:
            del self._models[name]
        self.on_left(model)

    def get(self, key: Key) -> ServedModel | None:
        name, version = key
        return self._models.get(name, {}).get(version)

    def __iter__(self) -> Iterator[ServedModel]:
        return (model for versions in self._models.values() for model in versions.values())

    def names(self) -> list[str]:
        return sorted(self._models)

    def versions(self, name: str) -> list[ServedModel]:
        """Every version of a model, lowest first; empty for an unknown name."""
        return [model for _, model in sorted(self._models.get(name, {}).items())]

    def only(self) -> str:
        """The name that a request may leave out; raises NotReady or UnknownModel without one."""
        if not self._models:
            raise NotReady("no model is served")
        if len(self._models) > 1:
            raise UnknownModel(f"name a model: {self._known()}", "model")
        (name,) = self._models
        return name

    def find(self, name: str, version: int | None) -> ServedModel:
        """The version asked for, by default the highest; raises UnknownModel."""
        versions = self.versions(name)
        if not versions:
            raise UnknownModel(f"{name!r} is none of {self._known()}", "model")
        for model in reversed(versions):
            if version in (None, model.manifest.version):
                return model
        known = ", ".join(str(model.manifest.version) for model in versions)
        raise UnknownModel(f"{name} has no version {version}, only {known}", "version")

    def _known(self) -> str:
        return ", ".join(self.names()) or "the models served: there are none"
