from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from models.bundle import profile as profile_module
from models.bundle.bundle import Bundle
from models.bundle.energy import Rapl, Usage
from models.bundle.profile import BATCH_SIZES, hardware, made_up, measure
from models.bundle.records import Tensor
from models.bundle.runner import SegmentRunner


def runner_of(bundle: Bundle) -> SegmentRunner:
    return SegmentRunner(bundle.manifest.segments, bundle.manifest.exit_heads, bundle.graphs)


def test_every_graph_is_timed_at_every_batch_size(digits_bundle: Bundle) -> None:
    profile = measure(runner_of(digits_bundle), runs=3)
    assert profile.batch_sizes == BATCH_SIZES
    assert (profile.runs, profile.threads, profile.watts) == (3, 1, 8.0)
    for costs in (profile.segments, profile.exit_heads):
        assert [cost.exit for cost in costs] == [1, 2, 3]
        for cost in costs:
            assert len(cost.median_s) == len(cost.p95_s) == len(BATCH_SIZES)
            pairs = zip(cost.median_s, cost.p95_s, strict=True)
            assert all(0 < median <= p95 < 10 for median, p95 in pairs)


def test_batch_sizes_runs_and_watts_are_the_callers(digits_bundle: Bundle) -> None:
    calls: list[None] = []
    profile = measure(
        runner_of(digits_bundle),
        runs=1,
        batch_sizes=(2, 3),
        watts=4.5,
        progress=lambda: calls.append(None),
    )
    assert (profile.batch_sizes, profile.runs, profile.watts) == ((2, 3), 1, 4.5)
    assert len(calls) == 1


def test_time_is_bounded_by_leaving_out_large_batches_and_late_rounds(
    digits_bundle: Bundle,
) -> None:
    profile = measure(runner_of(digits_bundle), max_s=1e-9)
    assert (profile.batch_sizes, profile.runs) == ((1,), 3)
    assert [len(cost.median_s) for cost in (*profile.segments, *profile.exit_heads)] == [1] * 6


def test_watts_come_from_the_meter_where_there_is_one(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def made(meter: Rapl | None) -> Iterator[Usage]:
        yield Usage(watts=3.5 if meter else None)

    monkeypatch.setattr(profile_module, "metered", made)
    profile = measure(runner_of(digits_bundle), runs=1, batch_sizes=(1,), meter=Rapl())
    assert (profile.watts, profile.energy_method) == (3.5, "rapl")
    profile = measure(runner_of(digits_bundle), runs=1, batch_sizes=(1,))
    assert (profile.watts, profile.energy_method) == (8.0, "estimate")


def test_a_profile_names_its_hardware(digits_bundle: Bundle) -> None:
    assert hardware().endswith(" cores")
    assert digits_bundle.cost.hardware == hardware()


def test_bytes_with_a_span_are_no_random_ones() -> None:
    """A network that looks something up by them would fail."""
    tensor, generator = Tensor(name="day", dtype="uint8", shape=(-1, 2)), np.random.default_rng(0)
    assert made_up(tensor, 3, 0, {"day": 5}, generator).tolist() == [[5, 5]] * 3
    assert made_up(tensor, 30, 0, {}, generator).max() > 200
