from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.runner import SegmentRunner
from training.evaluate import CHUNK, THRESHOLDS, all_logits, evaluate, exit_results


@pytest.fixture
def costs() -> Bundle:
    """What `exit_results` reads: segments of 10, 20 and 40 MACs, heads of 1, 2 and 3."""
    segments, heads = (
        [SimpleNamespace(macs=m) for m in macs] for macs in ((10, 20, 40), (1, 2, 3))
    )
    bundle: Bundle = SimpleNamespace(  # type: ignore[assignment]
        manifest=SimpleNamespace(segments=segments, exit_heads=heads)
    )
    return bundle


def test_exits_alone_and_in_the_ensemble(costs: Bundle) -> None:
    """The second exit is wrong about the first row, the two together are right."""
    first = np.array([[0.9, 0.1], [0.6, 0.4]], dtype=np.float32)
    second = np.array([[0.3, 0.7], [0.2, 0.8]], dtype=np.float32)
    results = exit_results(costs, [first, second], np.array([0, 1]))
    assert [(e.exit, e.macs, e.macs_all_heads) for e in results] == [(1, 11, 11), (2, 32, 33)]
    assert [(e.top1, e.ensemble_top1) for e in results] == [(0.5, 0.5), (0.5, 1.0)]
    assert [(e.top5, e.ensemble_top5) for e in results] == [(1.0, 1.0)] * 2
    assert results[0].ece == pytest.approx((0.1 + 0.6) / 2)
    assert results[1].ece == pytest.approx((0.7 + 0.2) / 2)


def runner_of(bundle: Bundle) -> SegmentRunner:
    return SegmentRunner(bundle.manifest.segments, bundle.manifest.exit_heads, bundle.graphs)


def images(rows: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (rows, 8, 8, 1), dtype=np.uint8)


def test_every_row_passes_every_exit_in_order(digits_bundle: Bundle) -> None:
    done: list[int] = []
    some = images(2 * CHUNK + 7)
    logits = all_logits(runner_of(digits_bundle), some, done.append)
    assert [z.shape for z in logits] == [(2 * CHUNK + 7, 10)] * 3
    assert done == [CHUNK, CHUNK, 7]
    alone = all_logits(runner_of(digits_bundle), some[CHUNK + 3 : CHUNK + 4], done.append)
    for together, z in zip(logits, alone, strict=True):
        assert z[0] == pytest.approx(together[CHUNK + 3], abs=1e-4)


def test_a_report_is_what_its_parts_say(digits_bundle: Bundle) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 60)
    logits = [generator.normal(0, 2, (60, 10)).astype(np.float32) for _ in range(3)]
    report = evaluate(digits_bundle, logits, labels, data="noise", split="test")
    assert (report.model, report.version, report.data, report.num_rows) == (
        "digits",
        1,
        "noise",
        60,
    )
    assert [e.top1 for e in report.exits] == [(z.argmax(axis=1) == labels).mean() for z in logits]
    assert set(report.operating_points) == {"fast", "balanced", "accurate", "certified"}
    assert report.curve_thresholds == THRESHOLDS
    shallowest, deepest = report.curve[0], report.curve[-1]
    assert (shallowest.exit_shares, shallowest.accuracy) == ([1, 0, 0], report.exits[0].top1)
    assert (deepest.exit_shares, deepest.accuracy) == ([0, 0, 1], report.exits[-1].top1)
    assert shallowest.mean_macs == report.exits[0].macs
    assert deepest.mean_macs == report.exits[-1].macs_all_heads
    depths = [point.mean_macs for point in report.curve]
    assert depths == sorted(depths)
