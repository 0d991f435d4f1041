"""Simulated load on a real bundle's calibration rows, with made costs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from models.bundle.calibration import CalibrationRows
from models.bundle.errors import UserError
from models.bundle.policy import policy_of_threshold
from server.engine.job import Budget
from server.engine.model import ServedModel
from server.planning.plan import BURST_S, Plan, bursts, markdown, poisson, recorded, simulate
from server.planning.simulation import NO_PYTHON, Python
from tests.server.conftest import made_profile, served

NEVER = policy_of_threshold(1.0, 3)
PLAN = Plan(NEVER, Budget(0.1), processes=1, lanes=1, max_in_flight=256, python=NO_PYTHON)
FULL_S, FIRST_S = 0.03, 0.01
"""Every graph of the made model takes 5 ms: all six, or the first segment and head."""


def evenly(rate: float, num_requests: int) -> NDArray[np.float64]:
    return np.arange(num_requests) / rate


@pytest.mark.parametrize("arrivals", [poisson, bursts])
def test_arrivals_have_the_rate_asked_for(
    arrivals: Callable[[float, int, Generator], NDArray[np.float64]],
) -> None:
    times = arrivals(100.0, 20_000, np.random.default_rng(0))
    assert (np.diff(times) >= 0).all()
    assert times[-1] == pytest.approx(200, rel=0.05)


def test_a_trace_keeps_its_shape_at_any_rate(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("10.0\n11.0\n11.0\n14.0\n")
    assert recorded(trace, 3.0).tolist() == pytest.approx([0, 0.25, 0.25, 1.0])
    trace.write_text("11.0\n10.0\n14.0\n11.0\n")  # as several processes write it
    assert recorded(trace, 3.0).tolist() == pytest.approx([0, 0.25, 0.25, 1.0])
    trace.write_text("2026-01-01T00:00:00.500+00:00\n2026-01-01T00:00:02.500+00:00\n")
    assert recorded(trace, 0.5).tolist() == pytest.approx([0, 2.0])


@pytest.mark.parametrize("text", ["", "1.0", "1.0\n1.0", "1.0\nnan", "soon\nlater"])
def test_a_trace_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trace").write_text(text)
    with pytest.raises(UserError, match="trace"):
        recorded(tmp_path / "trace", 1.0)
    with pytest.raises(UserError, match="poissn is no list of times"):
        recorded(Path("poissn"), 1.0)


def test_bursts_leave_gaps() -> None:
    times = bursts(100.0, 20_000, np.random.default_rng(0))
    phases = times % (3 * BURST_S)
    assert phases.max() <= BURST_S + 1e-6


def test_without_load_every_request_gets_the_last_exit(model: ServedModel) -> None:
    load = simulate(model, PLAN, evenly(10, 500), seed=0)
    assert load.exit_shares == (0, 0, 1)
    assert (load.refused, load.late) == (0, 0)
    assert load.goodput == load.rate == pytest.approx(10)
    assert (load.p50_s, load.p99_s) == pytest.approx((FULL_S, FULL_S))
    assert load.accuracy == pytest.approx(model.bundle.calibration.exits[-1].accuracy, abs=0.03)


def test_load_costs_depth_before_it_costs_answers(model: ServedModel) -> None:
    """At full depth the lane serves 33 to 60 requests a second, at the first exit 250."""
    loads = [simulate(model, PLAN, evenly(rate, 1000), seed=0) for rate in (10, 100, 240)]
    assert [load.refused for load in loads] == [0, 0, 0]
    assert [load.late for load in loads] == [0, 0, 0]
    shares = [load.exit_shares[0] for load in loads]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    overload = simulate(model, PLAN, evenly(1000, 3000), seed=0)
    assert overload.goodput == pytest.approx(250, rel=0.1)
    assert overload.refused == pytest.approx(0.75, abs=0.03)
    assert overload.late == 0


def test_python_delays_answers_and_can_be_too_much(model: ServedModel) -> None:
    plan = replace(PLAN, python=Python(request_s=0.01))
    alone = simulate(model, plan, evenly(20, 200), seed=0)
    assert alone.p50_s == pytest.approx(FULL_S + 0.01)
    with pytest.raises(UserError, match=r"^200 requests/s leave the event loops no time for"):
        simulate(model, plan, evenly(200, 200), seed=0)
    simulate(model, replace(plan, processes=2), evenly(200, 200), seed=0)


def test_processes_take_requests_in_turn_and_carry_as_much_more(model: ServedModel) -> None:
    one = simulate(model, PLAN, evenly(100, 1000), seed=0)
    two = simulate(model, replace(PLAN, processes=2), evenly(200, 2000), seed=0)
    assert two.rate == pytest.approx(2 * one.rate, rel=0.01)
    assert two.exit_shares == pytest.approx(one.exit_shares, abs=0.01)
    assert two.p99_s == pytest.approx(one.p99_s, rel=0.02)
    lanes = simulate(model, replace(PLAN, lanes=2), evenly(200, 2000), seed=0)
    assert (lanes.refused, lanes.late) == (0, 0)
    assert lanes.exit_shares[0] < 0.9, "one lane alone gives nearly all of them at exit 1"


def test_a_simulation_leaves_the_model_as_it_was(model: ServedModel) -> None:
    before = model.costs.segment_s(1, 1), model.costs.overhead_s
    simulate(model, replace(PLAN, python=Python(batch_s=0.01)), evenly(20, 50), seed=0)
    assert (model.costs.segment_s(1, 1), model.costs.overhead_s) == before


def test_a_text_costs_what_its_length_does(words: ServedModel) -> None:
    """A graph takes 1 ms for texts of 4 tokens, and 6 ms for those of 16."""
    sure, right = np.zeros((4, 3)), np.ones((4, 3), np.bool_)
    p50_s = {}
    for length in (4, 16, None):
        lengths = None if length is None else np.full(4, length)
        rows = CalibrationRows.of(sure, right, lengths)
        calibration = words.bundle.calibration.model_copy(update={"rows": rows})
        model = replace(words, bundle=replace(words.bundle, calibration=calibration))
        p50_s[length] = simulate(model, PLAN, evenly(10, 50), seed=0).p50_s
    assert p50_s == pytest.approx({4: 6 * 0.001, 16: 6 * 0.006, None: 6 * 0.006})


def test_a_bundle_without_calibration_rows_is_refused(digits_bundle: Bundle) -> None:
    calibration = digits_bundle.calibration.model_copy(update={"rows": None})
    model = served(replace(digits_bundle, calibration=calibration), made_profile(0.005))
    with pytest.raises(UserError, match=r"keeps no calibration rows; export it again$"):
        simulate(model, PLAN, evenly(10, 10), seed=0)


def test_a_row_of_the_table_has_every_figure(model: ServedModel) -> None:
    *_, row = markdown(iter([simulate(model, PLAN, evenly(10, 100), seed=0)]))
    assert row.startswith("| 10 | 10 | 0.0 | 0.0 | 30.00 | 30.00 | ")
    assert row.endswith(" | 0 0 100 |")
