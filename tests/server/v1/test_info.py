"""What `/v1/models` says of exits: their graphs' costs add up to their own."""

from base64 import b64decode

import pytest

from models.bundle.bundle import Bundle
from server.engine.model import ServedModel
from server.v1.info import calibration_info, version_info
from server.v1.schemas import GraphInfo


def test_costs_of_graphs_add_up_to_costs_of_exits(model: ServedModel) -> None:
    info, manifest = version_info(model, 100), model.manifest
    macs, seconds = 0, 0.0
    for exit, segment, head in zip(info.exits, manifest.segments, manifest.exit_heads, strict=True):
        macs, seconds = macs + segment.macs, seconds + 0.005
        assert exit.segment == GraphInfo(macs=segment.macs, latency_ms=5, energy_mj=40)
        assert exit.head == GraphInfo(macs=head.macs, latency_ms=5, energy_mj=40)
        assert exit.macs == macs + head.macs
        assert exit.latency_ms == pytest.approx(1000 * (seconds + 0.005))
    assert (info.overhead_ms, info.energy_source, info.judged_by) == (0, "estimate", "labels")
    assert info.confidence == model.bundle.calibration.confidence


def test_calibration_rows_come_as_they_lie_in_the_bundle(
    model: ServedModel, digits_bundle: Bundle
) -> None:
    rows = digits_bundle.calibration.rows
    assert rows is not None
    info = calibration_info(model)
    assert info.confidences is not None
    assert info.is_right is not None
    assert b64decode(info.confidences) == rows.confidences
    assert b64decode(info.is_right) == rows.is_right
    assert len(rows.is_right) == info.num_rows * info.num_exits
