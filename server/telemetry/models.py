"""Metrics of models: served ones, and bundles that were refused."""

from collections.abc import Sequence
from functools import partial

from server.engine.model import ServedModel
from server.telemetry.families import Families
from server.telemetry.memory import Memory


class ModelMetrics(Families):
    """Versions loaded and refused; expected exit shares; segments out of use."""

    def __init__(self, memory: Memory, fds: Sequence[int]) -> None:
        super().__init__(memory, fds)
        self._model_info = self._common("model_info", "Models loaded; always 1", "model", "version")
        self._load_failures = self._counter("model_load_failures", "Bundles refused", "model")
        self._calibration_exit_ratio = self._common(
            "calibration_exit_ratio",
            "Share of the calibration split that the balanced operating point stops at each exit",
            "model",
            "exit",
        )
        self._segment_disabled = self._common(
            "segment_disabled",
            "1 from when a segment or its exit head fails too often until it works again",
            "model",
            "exit",
        )
        self._num_exits: dict[str, int] = {}

    def model_loaded(self, model: ServedModel) -> None:
        super().model_loaded(model)
        name, version = model.key
        self._model_info.labels(name, version).set(1)
        self._load_failures.labels(name)

    def model_unloaded(self, model: ServedModel) -> None:
        """What it counted stays; nothing holds on to it."""
        name, version = model.key
        self._model_info.remove(name, version)
        for exit in range(1, model.manifest.num_exits + 1):
            self._watch(self._segment_disabled.labels(name, exit), float)

    def default_is(self, model: ServedModel) -> None:
        """This version answers where a request names none."""
        name, _ = model.key
        shares = model.default_point.exit_shares
        for exit in range(len(shares) + 1, self._num_exits.get(name, 0) + 1):  # of a deeper version
            self._calibration_exit_ratio.remove(name, exit)
            self._watch(self._segment_disabled.labels(name, exit), float)
        self._num_exits[name] = len(shares)
        for exit, share in enumerate(shares, start=1):
            self._calibration_exit_ratio.labels(name, exit).set(share)
            self._watch(
                self._segment_disabled.labels(name, exit), partial(is_disabled, model, exit)
            )

    def model_refused(self, name: str) -> None:
        self._load_failures.labels(name).inc()


def is_disabled(model: ServedModel, exit: int) -> bool:
    """Also while no request has come to try again: the alert looks at it for a minute."""
    found = [model.breakers.get((exit, is_head)) for is_head in (False, True)]
    return any(breaker is not None and breaker.is_tripped for breaker in found)
