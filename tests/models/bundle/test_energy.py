"""RAPL's counters, as files that a test writes, and NVML's, made here: no GPU has tried them."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from models.bundle.energy import find_meter, find_rapl, metered


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
    meter = find_rapl(tmp_path)
    assert meter is not None
    assert meter.read_j() == 0
    first.write_text("350000")
    second.write_text("50000")
    assert meter.read_j() == pytest.approx(0.3)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = find_rapl(tmp_path)
    assert meter is not None
    counter.write_text("100000")
    assert meter.read_j() == pytest.approx(0.2)
    counter.write_text("100000")
    assert meter.read_j() == pytest.approx(0.2)


def test_threads_that_read_at_once_see_no_wrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter, has_begun, is_over = find_rapl(tmp_path), threading.Event(), threading.Event()
    assert meter is not None

    def number(path: Path) -> int:
        found = int(path.read_text())
        if not has_begun.is_set():  # the first to read takes its time
            has_begun.set()
            is_over.wait(0.2)
        return found

    monkeypatch.setattr("models.bundle.energy._number", number)
    with ThreadPoolExecutor() as readers:
        counter.write_text("100000")
        first = readers.submit(meter.read_j)
        assert has_begun.wait(10)
        counter.write_text("200000")
        assert meter.read_j() == pytest.approx(0.2)
        is_over.set()
        assert first.result() in (pytest.approx(0.1), pytest.approx(0.2))


def test_no_meter_where_there_is_none_or_it_may_not_be_read(tmp_path: Path) -> None:
    assert find_rapl(tmp_path / "absent") is None
    assert find_rapl(tmp_path) is None
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    counter.unlink()
    assert find_rapl(tmp_path) is None
    counter.write_text("nonsense")
    assert find_rapl(tmp_path) is None


def test_work_is_charged_what_it_uses_beyond_the_idle_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = add_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter, now = find_rapl(tmp_path), 0.0

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


class Gpus:
    """What `pynvml` has of two GPUs, or of none."""

    class NVMLError(Exception):
        pass

    def __init__(self, *millijoules: int) -> None:
        self.millijoules, self.is_gone = list(millijoules), False

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return number

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:  # noqa: N802
        if self.is_gone:
            raise self.NVMLError("GPU is lost")
        return self.millijoules[gpu]


def test_gpus_are_metered_where_they_do_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(5_000, 7_000)
    monkeypatch.setitem(sys.modules, "pynvml", gpus)
    meter = find_meter("CUDAExecutionProvider")
    assert meter is not None
    assert (meter.source, meter.read_j()) == ("nvml", 0)
    gpus.millijoules = [5_500, 9_000]
    assert meter.read_j() == pytest.approx(2.5)
    gpus.is_gone = True
    with pytest.raises(OSError, match="GPU is lost"):
        meter.read_j()
    assert find_meter("CUDAExecutionProvider") is None


@pytest.mark.parametrize("library", [Gpus(), None])
def test_no_gpu_or_no_library_is_no_meter(
    monkeypatch: pytest.MonkeyPatch, library: Gpus | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert find_meter("CUDAExecutionProvider") is None
