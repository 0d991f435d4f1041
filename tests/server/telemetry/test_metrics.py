"""What one answer counts as, and what the host's meter says."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.bundle.energy import find_rapl
from models.bundle.policy import StopReason
from server.engine.job import Answer, Budget, Outcome, Run
from server.engine.model import ServedModel
from server.telemetry.answers import is_depth_limited
from server.telemetry.metrics import Metrics
from tests.models.bundle.test_energy import add_zone
from tests.server.http.test_departure import BOTH_PROTOCOLS
from tests.server.live import connect, live, request, samples


def outcome(exit: int, reason: StopReason, queue_s: float, length: int = 0) -> Outcome:
    answer = Answer(exit, np.full(10, 0.1, np.float32), 0.1, at_s=0.0)
    runs = (Run(0.005, 0.9),)
    return Outcome(answer, reason, queue_s, 0.01, 0.1, 1000, runs, (answer,), 1.0, length)


@pytest.mark.parametrize(
    ("reason", "queue_s", "expected"),
    [
        (StopReason.DEADLINE, 0.009, True),
        (StopReason.DEADLINE, 0.007, False),
        (StopReason.CONFIDENT, 0.009, False),
        (StopReason.EXIT_LIMIT, 0.009, False),
    ],
)
def test_depth_is_lost_to_load_where_waiting_took_what_the_next_exit_needed(
    model: ServedModel, reason: StopReason, queue_s: float, expected: bool
) -> None:
    """The next segment and its head take 10 ms; 2 ms were left at the answer."""
    said = outcome(1, reason, queue_s)
    assert is_depth_limited(model, Budget(0.020), said, total_s=0.018) is expected


@pytest.mark.parametrize(("length", "expected"), [(4, True), (16, False)])
def test_what_the_next_exit_needs_is_what_the_text_costs(
    words: ServedModel, length: int, expected: bool
) -> None:
    """The next exit takes 2 ms for the shortest texts and 12 ms for the longest."""
    said = outcome(1, StopReason.DEADLINE, queue_s=0.004, length=length)
    assert is_depth_limited(words, Budget(0.020), said, total_s=0.020) is expected


def test_a_request_without_a_budget_is_cut_short_by_load_alone(model: ServedModel) -> None:
    metrics = Metrics()
    metrics.model_loaded(model)
    for reason in (StopReason.DEADLINE, StopReason.FINAL):
        metrics.served(model, Budget(), [outcome(2, reason, 0.0)], num_failed=0, total_s=1.0)
    labels = {"model": "digits"}
    assert metrics.registry.get_sample_value("offramp_depth_limited_total", labels) == 1
    assert metrics.registry.get_sample_value("offramp_deadline_misses_total", labels) == 0


def test_a_default_version_with_fewer_exits_leaves_no_shares_of_the_deeper_one(
    model: ServedModel,
) -> None:
    metrics, bundle = Metrics(), model.bundle
    point = model.default_point.model_copy(update={"exit_shares": (0.75, 0.25)})
    calibration = bundle.calibration.model_copy(update={"operating_points": {"balanced": point}})
    metrics.default_is(model)
    metrics.default_is(replace(model, bundle=replace(bundle, calibration=calibration)))
    shares = [
        metrics.registry.get_sample_value(
            "offramp_calibration_exit_ratio", {"model": "digits", "exit": exit}
        )
        for exit in "123"
    ]
    assert shares == [0.75, 0.25, None]


@BOTH_PROTOCOLS
def test_a_request_is_decoded_once_and_its_upload_is_no_decoding(
    model: ServedModel, path: str, body: bytes, route: str
) -> None:
    pause_s = 0.3
    with live(model) as url:
        with connect(url) as client:
            client.sendall(request(path, body[:10], len(body)))
            time.sleep(pause_s)
            client.sendall(body[10:])
            assert b" 200 OK" in client.recv(65_536)
        said = samples(url)
        assert said[f'offramp_requests_total{{code="200",route="{route}"}}'] == 1
        assert said["offramp_decode_duration_seconds_count"] == 1
        assert said["offramp_decode_duration_seconds_sum"] < pause_s


@pytest.mark.parametrize("code", [500, 503])
def test_the_first_failure_of_a_route_is_an_increase(code: int) -> None:
    metrics, labels = Metrics(), {"route": "/x", "code": str(code)}
    metrics.route_known("/x")
    assert metrics.registry.get_sample_value("offramp_requests_total", labels) == 0
    metrics.request_ended("/x", code, 0.1)
    assert metrics.registry.get_sample_value("offramp_requests_total", labels) == 1


def test_the_hosts_meter_is_exported_as_long_as_there_is_one(tmp_path: Path) -> None:
    counter, metrics = add_zone(tmp_path, "intel-rapl:0", "package-0", 0), Metrics()
    name, labels = "offramp_meter_joules_total", {"source": "rapl"}
    meter = find_rapl(tmp_path)
    assert meter is not None
    metrics.meter_found(meter)
    counter.write_text("500000")
    assert metrics.registry.get_sample_value(name, labels) == 0.5
    counter.unlink()
    assert metrics.registry.get_sample_value(name, labels) is None
