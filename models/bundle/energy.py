"""Energy meters of the host: RAPL's counters of what the processor packages have used.

https://www.kernel.org/doc/html/latest/power/powercap/powercap.html
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import nan
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_COUNT = 1e-6
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

    def read(self) -> int:
        """Microjoules since the zone was opened."""
        now = _number(self.path / "energy_uj")
        self.total += (now - self.last) % (self.range + 1)
        self.last = now
        return self.total


@dataclass(slots=True)
class Rapl:
    """All packages together, whoever else uses them. Read it more often than a counter wraps."""

    zones: list[Zone] = field(default_factory=list)
    source = "rapl"

    def read_j(self) -> float:
        """Joules since the meter was opened; raises OSError where it has gone."""
        return JOULES_PER_COUNT * sum(zone.read() for zone in self.zones)


@dataclass(slots=True)
class Usage:
    """What a stretch of work used beyond the idle host; None where that is not known."""

    watts: float | None = None


@contextmanager
def metered(meter: Rapl | None) -> Iterator[Usage]:
    """Meters the work inside, after a second of rest.

    Not where it took less than a second, or where the meter has gone.
    """
    usage = Usage()
    if meter is None:
        yield usage
        return
    idle_j, idle_from = _joules(meter), time.perf_counter()
    time.sleep(IDLE_S)
    busy_j, busy_from = _joules(meter), time.perf_counter()
    yield usage
    busy_s = time.perf_counter() - busy_from
    idle_watts = (busy_j - idle_j) / (busy_from - idle_from)
    watts = (_joules(meter) - busy_j) / busy_s - idle_watts
    if busy_s >= MIN_METERED_S and watts > 0:
        usage.watts = watts


def find_meter(powercap: Path = POWERCAP) -> Rapl | None:
    """The host's meter, or None where it has none that this process may read."""
    try:
        zones = [
            Zone(path, _number(path / "max_energy_range_uj"), _number(path / "energy_uj"))
            for path in sorted(powercap.glob("intel-rapl:*"))
            if (path / "name").read_text().startswith("package")
        ]
    except (OSError, ValueError):
        return None
    return Rapl(zones) if zones else None


def _joules(meter: Rapl) -> float:
    """What the meter says; NaN where it has gone."""
    try:
        return meter.read_j()
    except OSError:
        return nan


def _number(path: Path) -> int:
    return int(path.read_text())
