"""Energy meters of the host: RAPL's of the processor packages, NVML's of NVIDIA's GPUs.

https://www.kernel.org/doc/html/latest/power/powercap/powercap.html
https://docs.nvidia.com/deploy/nvml-api/
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from math import nan
from pathlib import Path
from threading import Lock
from typing import Any, Literal

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_COUNT = 1e-6
NVIDIA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
"""Execution providers whose work NVML counts."""
IDLE_S = 1.0
MIN_METERED_S = 1.0
"""Below that a meter's steps show."""


@dataclass(slots=True)
class Zone:
    """One processor package's counter, which starts again at zero beyond its range."""

    path: Path
    range: int
    last: int
    total: int = 0
    lock: Lock = field(default_factory=Lock)

    def read(self) -> int:
        """Microjoules since the zone was opened."""
        with self.lock:  # else an older reading after a newer one would be a wrap of the counter
            now = _number(self.path / "energy_uj")
            self.total += (now - self.last) % (self.range + 1)
            self.last = now
            return self.total


@dataclass(slots=True)
class Rapl:
    """All processor packages, all programs included. Read it more often than a counter wraps."""

    zones: list[Zone] = field(default_factory=list)
    source: Literal["rapl"] = "rapl"

    def read_j(self) -> float:
        """Joules since the meter was opened; raises OSError where it has gone."""
        return JOULES_PER_COUNT * sum(zone.read() for zone in self.zones)


@dataclass(slots=True)
class Nvml:
    """All GPUs that a process sees, all programs included, by the `pynvml` of nvidia-ml-py."""

    library: Any
    gpus: list[Any]
    first_j: float = 0.0
    source: Literal["nvml"] = "nvml"

    def __post_init__(self) -> None:
        self.first_j = self.read_j()

    def read_j(self) -> float:
        """Joules since the meter was opened; raises OSError where it has gone."""
        try:
            counts = [self.library.nvmlDeviceGetTotalEnergyConsumption(gpu) for gpu in self.gpus]
        except self.library.NVMLError as error:
            raise OSError(str(error)) from error
        return float(sum(counts)) / 1000 - self.first_j


Meter = Rapl | Nvml


@dataclass(slots=True)
class Usage:
    """The energy of a stretch of work beyond the idle host's; None where it is not known."""

    watts: float | None = None


@contextmanager
def metered(meter: Meter | None) -> Iterator[Usage]:
    """Meters the work inside, after a second of rest.

    Not where it took less than a second, or where the meter has gone.
    """
    usage = Usage()
    if meter is None:
        yield usage
        return
    idle_j, idle_from = joules(meter), time.perf_counter()
    time.sleep(IDLE_S)
    busy_j, busy_from = joules(meter), time.perf_counter()
    yield usage
    busy_s = time.perf_counter() - busy_from
    idle_watts = (busy_j - idle_j) / (busy_from - idle_from)
    watts = (joules(meter) - busy_j) / busy_s - idle_watts
    if busy_s >= MIN_METERED_S and watts > 0:
        usage.watts = watts


def find_meter(provider: str) -> Meter | None:
    """The host's meter of what that execution provider runs on, or None without one."""
    return find_nvml() if provider in NVIDIA else find_rapl()


def find_nvml() -> Nvml | None:
    """None without nvidia-ml-py, a driver, or GPUs that count."""
    try:
        library = import_module("pynvml")
    except ImportError:
        return None
    try:
        library.nvmlInit()
        count = library.nvmlDeviceGetCount()
        gpus = [library.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
        return Nvml(library, gpus) if gpus else None
    except (library.NVMLError, OSError):
        return None


def find_rapl(powercap: Path = POWERCAP) -> Rapl | None:
    """None where there are no counters that this process may read."""
    try:
        zones = [
            Zone(path, _number(path / "max_energy_range_uj"), _number(path / "energy_uj"))
            for path in sorted(powercap.glob("intel-rapl:*"))
            if (path / "name").read_text().startswith("package")
        ]
    except (OSError, ValueError):
        return None
    return Rapl(zones) if zones else None


def joules(meter: Meter) -> float:
    """The meter's joules; NaN where it has gone."""
    try:
        return meter.read_j()
    except OSError:
        return nan


def _number(path: Path) -> int:
    return int(path.read_text())
