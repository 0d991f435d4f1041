from models.bundle.bundle import Bundle
from models.bundle.profile import BATCH_SIZES, hardware, measure
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
    assert len(calls) == 2


def test_a_profile_names_its_hardware(digits_bundle: Bundle) -> None:
    assert hardware().endswith(" cores")
    assert digits_bundle.cost.hardware == hardware()
