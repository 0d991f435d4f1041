"""A real Prometheus in a process of its own, on the committed configuration, at other addresses."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import httpx

from benchmarks.process import ROOT, free_port

DIRECTORY = ROOT / "deploy/prometheus"
SCRAPE_S = 1
LEAST_WINDOW_S = 5  # a rate needs two scrapes, and one may be late
LIMIT_S = 20
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A client of Prometheus's HTTP API."""

    url: str

    def get(self, path: str, **parameters: str | float) -> Any:  # noqa: ANN401 - JSON
        said = httpx.get(f"{self.url}/api/v1/{path}", params=parameters)
        if said.status_code != 200:
            raise RuntimeError(said.text)
        return said.json()["data"]

    def now(self, expression: str, label: str) -> dict[str, float]:
        """The current value of each series by one label, without those that are zero."""
        series = self.get("query", query=expression)["result"]
        values = {each["metric"].get(label, ""): float(each["value"][1]) for each in series}
        return {name: value for name, value in values.items() if value != 0}

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = self.get("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def alerts(self) -> set[str]:
        """The names of all that could."""
        groups = self.get("rules", type="alert")["groups"]
        return {rule["name"] for group in groups for rule in group["rules"]}

    def silent_rules(self) -> list[str]:
        """Rules that cannot be evaluated, and recording rules that have recorded nothing."""
        rules = [rule for group in self.get("rules")["groups"] for rule in group["rules"]]
        return [
            rule["name"]
            for rule in rules
            if rule["health"] != "ok"
            or (
                rule["type"] == "recording"
                and not any(map(has_data, self.get("query", query=rule["name"])["result"]))
            )
        ]


def has_data(series: dict[str, Any]) -> bool:
    """Whether a series that Prometheus answers has a number; a division by zero has none."""
    values = series.get("values") or [series["value"]]
    return any(not isnan(float(value)) for _, value in values)


def eventually(look: Callable[[], object], expected: object, limit_s: float = LIMIT_S) -> None:
    """Polls until `look()` is as expected; raises AssertionError with the last difference."""
    deadline = time.monotonic() + limit_s
    while (seen := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert seen == expected, f"{seen} is not {expected}"


def configuration(server: str, own: str) -> str:
    """The committed configuration at other addresses, and quicker."""
    text = (DIRECTORY / "prometheus.yml").read_text()
    for committed, ours in (
        ("offramp:8000", server),
        ("localhost:9090", own),
        ("scrape_interval: 5s", f"scrape_interval: {SCRAPE_S}s"),
        ("evaluation_interval: 5s", f"evaluation_interval: {SCRAPE_S}s"),
    ):
        if text.count(committed) != 1:
            raise ValueError(f"{committed} is not in the configuration once")
        text = text.replace(committed, ours)
    return text


def shortened(rules: str, times: int) -> str:
    """Rules whose windows and waits are so many times as short."""

    def shorter(duration: re.Match[str]) -> str:
        seconds = int(duration[1]) * SECONDS[duration[2]] // times
        return f"{max(seconds, LEAST_WINDOW_S)}s"

    hours = re.sub(r"\b(\d+) \* 3600\b", lambda found: f"{int(found[1]) * 3600 // times}", rules)
    return re.sub(r"\b(\d+)([smhd])\b", shorter, hours)


@contextmanager
def scraping(server_url: str, directory: Path, times: int = 60) -> Iterator[Prometheus]:
    """A Prometheus process that has scraped the server and itself, with shortened rules."""
    address = f"127.0.0.1:{free_port()}"
    file = directory / "prometheus.yml"
    file.write_text(configuration(server_url.removeprefix("http://"), address))
    for rules in DIRECTORY.glob("rules*.yml"):
        (directory / rules.name).write_text(shortened(rules.read_text(), times))
    command = [
        "prometheus",
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
