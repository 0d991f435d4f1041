"""RAPL's counters, as files that a test writes."""

import time
from pathlib import Path

import pytest

from models.bundle.energy import find_meter, metered


def add_zone(powercap: Path, zone: str, name: str, energy_uj: int) -> Path:
    path = powercap / zone
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text("999999\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path / "energy_uj"


def test_packages_are_summed_and_parts_of_them_are_not(tmp_path: Path) -> None:
    first = add_zone(tmp_path, "intel-rapl:0", "package-0", 100_000)
    add_zone(tmp_path, "intel-rapl:0:0", "core", 5)
    add_zone(tmp_path, "intel-rapl:1", "psys", 5)
    second = add_zone(tmp_path, "intel-rapl:2", "package-1", 0)
    meter = find_meter(tmp_path)
    assert meter is not None
    assert meter.read_j() == 0
    first.write_text("350000")
    second.write_text("50000")
    assert meter.read_j() == pytest.approx(0.3)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = find_meter(tmp_path)
    assert meter is not None
    counter.write_text("100000")
    assert meter.read_j() == pytest.approx(0.2)
    counter.write_text("100000")
    assert meter.read_j() == pytest.approx(0.2)


def test_no_meter_where_there_is_none_or_it_may_not_be_read(tmp_path: Path) -> None:
    assert find_meter(tmp_path / "absent") is None
    assert find_meter(tmp_path) is None
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    counter.unlink()
    assert find_meter(tmp_path) is None
    counter.write_text("nonsense")
    assert find_meter(tmp_path) is None


def test_work_is_charged_what_it_uses_beyond_the_idle_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter, now = find_meter(tmp_path), 0.0

    def pass_time(seconds: float, watts: float = 0.1) -> None:
        nonlocal now
        now += seconds
        counter.write_text(str(int(counter.read_text()) + int(1e6 * watts * seconds)))

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "sleep", pass_time)
    with metered(meter) as usage:
        pass_time(2.0, watts=0.35)
    assert usage.watts == pytest.approx(0.25)
    with metered(meter) as usage:
        pass_time(0.9, watts=0.35)
    assert usage.watts is None, "too short to tell"
    with metered(meter) as usage:
        pass_time(2.0, watts=0.05)
    assert usage.watts is None, "never less than nothing"
    with metered(None) as usage:
        pass_time(2.0)
    assert usage.watts is None
    with metered(meter) as usage:
        pass_time(2.0, watts=0.35)
        counter.unlink()
    assert usage.watts is None, "the meter has gone"
