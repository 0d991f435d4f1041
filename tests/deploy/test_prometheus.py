"""A real Prometheus, run on the committed configuration, scrapes a real server under real requests.

What it then knows must equal what the clients were told, and answer every query of the dashboard.
"""

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks.prometheus import DIRECTORY, SCRAPE_S, Prometheus, eventually, has_data, scraping
from models.bundle.bundle import Bundle
from tests.conftest import Serve
from tests.deploy import dashboard
from tests.deploy.dashboard import Query
from tests.deploy.rules import ALERTS, RECORDED, autoscaler_query
from tests.images import encoded

RATE_INTERVAL_S = 4 * SCRAPE_S  # what Grafana takes for $__rate_interval on a short time range
ROUNDS = 3
IMAGES = 12
CLASSIFY = "/v1/classify"
REQUESTS = f'offramp_requests_total{{route="{CLASSIFY}"}}'
IN_TIME, TOO_LATE = {"latency_budget_ms": 5000.0}, {"latency_budget_ms": 0.001}
PARAMETERS: tuple[dict[str, Any], ...] = (
    {"operating_point": "fast"},
    {"operating_point": "balanced"},
    {"operating_point": "accurate"},
    {"threshold": 1},
    IN_TIME,
    TOO_LATE,
)


@dataclass(frozen=True, slots=True)
class Sent:
    """What clients were told, counted as the server should count it."""

    codes: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    energy_mj: list[float] = field(default_factory=list)

    def add(self, response: httpx.Response) -> None:
        self.codes[str(response.status_code)] += 1
        if response.is_success:
            answer = response.json()
            self.exits[str(answer["exit"])] += 1
            self.stops[answer["stop_reason"]] += 1
            self.energy_mj.append(answer["cost"]["energy_mj"])


@dataclass(frozen=True, slots=True)
class Observed:
    """A Prometheus that has seen all that was sent since `start`, a Unix time."""

    prometheus: Prometheus
    sent: Sent
    start: float


def executable(name: str) -> str:
    """The path of a program of Debian's package prometheus; only CI must have it."""
    path = shutil.which(name)
    if path is None and "CI" not in os.environ:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    assert path is not None
    return path


def digits() -> list[bytes]:
    """Encoded images; the data set's pixels go from 0 to 16."""
    pixels = 255 / 16 * load_digits().images[:IMAGES]
    return [encoded(image) for image in pixels.astype(np.uint8)]


def send(url: str, sent: Sent) -> None:
    """Every image at every operating point and budget, one refused request, one broken image."""
    with httpx.Client(base_url=url, headers={"content-type": "image/png"}) as client:
        for image in digits():
            for parameters in PARAMETERS:
                sent.add(client.post(CLASSIFY, content=image, params=parameters))
        sent.add(client.post(CLASSIFY, content=image, params=TOO_LATE | {"strict": True}))
        sent.add(client.post(CLASSIFY, content=image[:20]))


def values(
    prometheus: Prometheus, query: Query, variables: dict[str, str], start: float
) -> list[list[float]]:
    """Every series' values as the panel draws them, from `start` until now."""
    end = time.time()
    window = {"__range": f"{int(end - start) + 1}s"}
    expression = query.substituted(variables | window)
    if query.instant:
        result = prometheus.get("query", query=expression, time=end)["result"]
        return [[float(each["value"][1])] for each in result]
    result = prometheus.get("query_range", query=expression, start=start, end=end, step=SCRAPE_S)
    return [[float(value) for _, value in each["values"]] for each in result["result"]]


@pytest.fixture(scope="module")
def observed(
    serve: Serve, digits_zoo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    executable("prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    with serve(digits_zoo, shadow_share=1) as server, scraping(server.url, directory) as prometheus:
        start, sent = time.time(), Sent()
        for _ in range(ROUNDS):
            send(server.url, sent)
            eventually(lambda: prometheus.now(REQUESTS, "code"), dict(sent.codes))
        yield Observed(prometheus, sent, start)


def test_configuration_is_valid() -> None:
    subprocess.run(
        [executable("promtool"), "check", "config", str(DIRECTORY / "prometheus.yml")], check=True
    )


def test_every_request_was_answered_as_meant(observed: Observed) -> None:
    answered = ROUNDS * IMAGES * len(PARAMETERS)
    assert observed.sent.codes == {"200": answered, "503": ROUNDS, "400": ROUNDS}


@pytest.mark.parametrize(("metric", "label"), [("exits", "exit"), ("stops", "reason")])
def test_counters_equal_what_clients_were_told(observed: Observed, metric: str, label: str) -> None:
    told = {"exit": observed.sent.exits, "reason": observed.sent.stops}[label]
    assert len(told) > 1
    assert observed.prometheus.now(f"offramp_{metric}_total", label) == dict(told)


def test_every_answer_has_a_duration(observed: Observed) -> None:
    counted = observed.prometheus.now("offramp_answer_duration_seconds_count", "exit")
    assert counted == dict(observed.sent.exits)


def test_energy_equals_what_clients_were_told(observed: Observed) -> None:
    joules = observed.prometheus.now("offramp_energy_joules_total", "source")
    assert joules == {"estimate": pytest.approx(sum(observed.sent.energy_mj) / 1000, rel=1e-3)}


def test_deadlines_equal_what_clients_asked_for(observed: Observed) -> None:
    each = float(ROUNDS * IMAGES)
    assert observed.prometheus.now("offramp_deadline_misses_total", "model") == {"digits": each}
    assert observed.prometheus.now("offramp_budget_slack_seconds_count", "model") == {
        "digits": each
    }


def test_refusals_are_counted_by_reason(observed: Observed) -> None:
    assert observed.prometheus.now("offramp_shed_total", "reason") == {"infeasible": ROUNDS}


def test_calibration_is_the_bundles(observed: Observed, digits_bundle: Bundle) -> None:
    shares = digits_bundle.calibration.operating_points["balanced"].exit_shares
    expected = {str(exit): share for exit, share in enumerate(shares, start=1) if share}
    assert observed.prometheus.now("offramp_calibration_exit_ratio", "exit") == expected


@pytest.fixture(scope="module")
def variables(observed: Observed) -> dict[str, str]:
    """The dashboard's variables, found as Grafana finds them."""
    found: dict[str, str] = {}
    for name in ("model", "version", "exit"):
        wanted = dashboard.variables("exits")[name]["definition"]
        for known, value in found.items():
            wanted = wanted.replace(f"${known}", value)
        parts = re.fullmatch(r"label_values\((\S+), (\w+)\)", wanted)
        assert parts is not None
        first, *_ = observed.prometheus.get(f"label/{parts[2]}/values", **{"match[]": parts[1]})
        found[name] = first
    assert found == {"model": "digits", "version": "1", "exit": "1"}
    return found | {"__rate_interval": f"{RATE_INTERVAL_S}s"}


@pytest.mark.parametrize("query", dashboard.queries(), ids=str)
def test_query_returns_data(observed: Observed, variables: dict[str, str], query: Query) -> None:
    curves = values(observed.prometheus, query, variables, observed.start)
    assert any(not isnan(value) for curve in curves for value in curve)


@pytest.mark.parametrize(
    ("expression", "expected"), [("vector(0)", True), ("vector(0) / 0", False)]
)
def test_what_is_divided_by_zero_is_no_data(
    observed: Observed, expression: str, expected: bool
) -> None:
    now = time.time()
    (curve,) = observed.prometheus.get(
        "query_range", query=expression, start=now - 5, end=now, step=1
    )["result"]
    (point,) = observed.prometheus.get("query", query=expression)["result"]
    assert has_data(curve) is has_data(point) is expected


@pytest.mark.parametrize("rule", RECORDED)
def test_recording_rule_has_recorded(observed: Observed, rule: str) -> None:
    recorded = observed.prometheus.get("query", query=f"max_over_time({rule}[1h])")["result"]
    assert not isnan(float(recorded[0]["value"][1]))


def test_every_rule_was_evaluated_without_error(observed: Observed) -> None:
    groups = observed.prometheus.get("rules")["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert health == dict.fromkeys([*RECORDED, *ALERTS], "ok")


def test_autoscalers_metric_has_a_value(observed: Observed) -> None:
    query = autoscaler_query('job="offramp"', "job")
    (series,) = observed.prometheus.get("query", query=query)["result"]
    assert 0 <= float(series["value"][1]) <= 1


def test_exit_shares_sum_to_one(observed: Observed, variables: dict[str, str]) -> None:
    served, calibration = (
        q for q in dashboard.queries() if q.panel == "Exit share and calibration"
    )
    for query in (served, calibration):
        curves = values(observed.prometheus, query, variables, observed.start)
        assert sum(value for (value,) in curves) == pytest.approx(1)
