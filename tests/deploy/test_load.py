"""The load profile's traffic, from a real locust to a real server."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.process import ROOT
from benchmarks.prometheus import eventually
from tests.deploy.test_compose import SERVICES, on_host


def seen(url: str) -> set[tuple[str, str]]:
    """Status codes and stop reasons that the server has counted."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return {
        (name, sample.labels[name])
        for family in families
        for sample in family.samples
        for name in ("code", "reason")
        if sample.name in ("offramp_requests_total", "offramp_stops_total")
        and name in sample.labels
        and sample.value > 0
    }


def test_load_makes_every_kind_of_answer(shipped: str, tmp_path: Path) -> None:
    options = {o.partition("=")[0]: o.partition("=")[2] for o in SERVICES["load"]["command"]}
    options["--locustfile"] = str(ROOT / on_host("load", options["--locustfile"]))
    options["--host"] = shipped
    command = [f"{name}={value}" if value else name for name, value in options.items()]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "locust", *command], stdout=log, stderr=subprocess.STDOUT
        )
    wanted = {("code", "200"), ("code", "400"), ("code", "503")}
    wanted |= {("reason", "confident"), ("reason", "final"), ("reason", "energy")}
    try:
        eventually(lambda: wanted - seen(shipped), set(), limit_s=60)
    finally:
        process.send_signal(signal.SIGINT)  # locust then exits with 1 where a request failed
        process.wait(20)
    assert process.returncode == 0, (tmp_path / "log").read_text()
