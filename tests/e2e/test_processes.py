"""Several server processes on one port: all of them answer, and each can be asked alone."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from benchmarks.process import ROOT, ServerProcess, own_url, serving, wait_until_ready
from tests.server.live import PNG

HEADERS = {"content-type": "image/png"}
LIMIT_S = 30


@pytest.fixture(scope="module")
def server(digits_zoo: Path) -> Iterator[ServerProcess]:
    """For tests that leave it as it was."""
    with serving(digits_zoo, processes=2) as server:
        yield server


@pytest.fixture
def victim(digits_zoo: Path) -> Iterator[ServerProcess]:
    """For the others."""
    with serving(digits_zoo, processes=2, drain_delay_s=0.5) as server:
        yield server


def until_gone(url: str) -> None:
    end = time.monotonic() + LIMIT_S
    with suppress(httpx.TransportError):
        while time.monotonic() < end:
            httpx.get(f"{url}/healthz")
        raise AssertionError(f"{url} still answers")


def ask(url: str) -> int:
    """On a connection of its own."""
    return httpx.post(f"{url}/v1/classify", content=PNG, headers=HEADERS).status_code


def num_answered(url: str) -> float:
    name = 'offramp_inferences_total{model="digits",outcome="answered"}'
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def pid_of(server: ServerProcess, number: int) -> int:
    """The latest that has said so."""
    lines = map(json.loads, server.log.read_text().splitlines())
    said = f"process {number} has port "
    pids: list[int] = [line["process"] for line in lines if line["message"].startswith(said)]
    return pids[-1]


def test_all_answer_and_each_counts_its_own_url(server: ServerProcess) -> None:
    assert [ask(server.url) for _ in range(60)] == [200] * 60
    counts = [num_answered(own_url(server, number)) for number in (0, 1)]
    assert sum(counts) == 60
    assert min(counts) > 0, "one in 2 ** 59 runs is unlucky"
    assert ask(own_url(server, 1)) == 200
    assert num_answered(own_url(server, 1)) == counts[1] + 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/digits/stats"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/digits/unload"),
    ],
)
def test_what_is_a_processs_own_is_asked_for_at_its_own_port(
    server: ServerProcess, method: str, path: str
) -> None:
    refused = httpx.request(method, f"{server.url}{path}")
    assert refused.status_code == 421
    assert own_url(server, 1).rpartition(":")[2] in refused.text
    assert httpx.request(method, f"{own_url(server, 1)}{path}").status_code == 200


def test_a_killed_process_is_replaced_while_the_others_answer(victim: ServerProcess) -> None:
    killed = pid_of(victim, 0)
    os.kill(killed, signal.SIGKILL)
    until_gone(own_url(victim, 0))
    assert [ask(victim.url) for _ in range(10)] == [200] * 10
    wait_until_ready(victim, own_url(victim, 0))
    assert pid_of(victim, 0) != killed
    assert num_answered(own_url(victim, 0)) < 10
    assert [ask(victim.url) for _ in range(10)] == [200] * 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_all_drain_and_the_status_is_0(
    victim: ServerProcess, number: signal.Signals
) -> None:
    victim.process.send_signal(number)
    urls = [own_url(victim, number) for number in (0, 1)]
    while 200 in [httpx.get(f"{url}/readyz").status_code for url in urls]:
        time.sleep(0.01)
    assert victim.process.wait(LIMIT_S) == 0


def test_none_outlives_the_first(victim: ServerProcess) -> None:
    victim.process.kill()
    for number in (0, 1):
        until_gone(own_url(victim, number))


def test_what_stops_one_stops_all_and_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "offramp", "serve", "--processes", "2", "--zoo", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 1
    assert f"error: {tmp_path} holds no bundle" in done.stderr
    assert "Traceback" not in done.stderr
