"""A real Prometheus, run on the committed configuration, scrapes a real server under real requests.

What it then knows must equal what the clients were told, and answer every query of the dashboard.
"""

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks.process import ROOT, free_port
from models.bundle.bundle import Bundle
from tests.conftest import Serve
from tests.deploy import dashboard
from tests.deploy.dashboard import Query
from tests.images import encoded

CONFIGURATION = ROOT / "deploy/prometheus/prometheus.yml"
SCRAPE_S = 1
RATE_INTERVAL_S = 4 * SCRAPE_S  # what Grafana takes for $__rate_interval on a short time range
LIMIT_S = 20
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
class Prometheus:
    """A client of Prometheus's HTTP API."""

    url: str

    def get(self, path: str, **parameters: str | float) -> Any:  # noqa: ANN401 - JSON
        said = httpx.get(f"{self.url}/api/v1/{path}", params=parameters)
        assert said.status_code == 200, said.text
        return said.json()["data"]

    def now(self, expression: str, label: str) -> dict[str, float]:
        """The current value of each series by one label, without those that are zero."""
        series = self.get("query", query=expression)["result"]
        values = {each["metric"].get(label, ""): float(each["value"][1]) for each in series}
        return {name: value for name, value in values.items() if value != 0}

    def values(self, query: Query, variables: dict[str, str], start: float) -> list[list[float]]:
        """Every series' values as the panel draws them, from `start` until now."""
        end = time.time()
        window = {"__range": f"{int(end - start) + 1}s"}
        expression = query.substituted(variables | window)
        if query.instant:
            result = self.get("query", query=expression, time=end)["result"]
            return [[float(each["value"][1])] for each in result]
        result = self.get("query_range", query=expression, start=start, end=end, step=SCRAPE_S)
        return [[float(value) for _, value in each["values"]] for each in result["result"]]


@dataclass(frozen=True, slots=True)
class Observed:
    """A Prometheus that has seen all that was sent since `start`, a Unix time."""

    prometheus: Prometheus
    sent: Sent
    start: float


def eventually(look: Callable[[], object], expected: object) -> None:
    """Polls until `look()` is as expected; the last difference is the failure."""
    deadline = time.monotonic() + LIMIT_S
    while (seen := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == expected


def executable(name: str) -> str:
    """The path of a program of Debian's package prometheus; only CI must have it."""
    path = shutil.which(name)
    if path is None and "CI" not in os.environ:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    assert path is not None
    return path


def configuration(server: str, own: str) -> str:
    """The committed configuration at other addresses, and quicker."""
    text = CONFIGURATION.read_text()
    for committed, ours in (
        ("offramp:8000", server),
        ("localhost:9090", own),
        ("scrape_interval: 5s", f"scrape_interval: {SCRAPE_S}s"),
    ):
        assert text.count(committed) == 1
        text = text.replace(committed, ours)
    return text


@contextmanager
def scraping(server_url: str, directory: Path) -> Iterator[Prometheus]:
    """A Prometheus process that has scraped the server and itself."""
    address = f"127.0.0.1:{free_port()}"
    file = directory / "prometheus.yml"
    file.write_text(configuration(server_url.removeprefix("http://"), address))
    command = [
        executable("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        prometheus = Prometheus(f"http://{address}")
        eventually(lambda: is_ready(prometheus.url), True)
        eventually(lambda: prometheus.now("up", "job"), {"offramp": 1, "prometheus": 1})
        yield prometheus
    finally:
        process.terminate()
        process.wait(LIMIT_S)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").is_success
    except httpx.TransportError:
        return False


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


@pytest.fixture(scope="module")
def observed(
    serve: Serve, digits_zoo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    directory = tmp_path_factory.mktemp("prometheus")
    with serve(digits_zoo) as server, scraping(server.url, directory) as prometheus:
        start, sent = time.time(), Sent()
        for _ in range(ROUNDS):
            send(server.url, sent)
            eventually(lambda: prometheus.now(REQUESTS, "code"), dict(sent.codes))
        yield Observed(prometheus, sent, start)


def test_configuration_is_valid() -> None:
    subprocess.run([executable("promtool"), "check", "config", str(CONFIGURATION)], check=True)


def test_every_request_was_answered_as_meant(observed: Observed) -> None:
    answered = ROUNDS * IMAGES * len(PARAMETERS)
    assert observed.sent.codes == {"200": answered, "503": ROUNDS, "400": ROUNDS}


@pytest.mark.parametrize(("metric", "label"), [("exits", "exit"), ("stops", "reason")])
def test_counters_equal_what_clients_were_told(observed: Observed, metric: str, label: str) -> None:
    told = {"exit": observed.sent.exits, "reason": observed.sent.stops}[label]
    assert len(told) > 1
    assert observed.prometheus.now(f"offramp_{metric}_total", label) == dict(told)


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
    curves = observed.prometheus.values(query, variables, observed.start)
    assert any(not isnan(value) for curve in curves for value in curve)


def test_exit_shares_sum_to_one(observed: Observed, variables: dict[str, str]) -> None:
    served, calibration = (
        q for q in dashboard.queries() if q.panel == "Exit share and calibration"
    )
    for query in (served, calibration):
        curves = observed.prometheus.values(query, variables, observed.start)
        assert sum(value for (value,) in curves) == pytest.approx(1)
