"""Offramp on a real Ray cluster of two nodes, one of which is killed under load."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from benchmarks.process import ROOT

LIMIT_S = 600


@pytest.mark.skipif(find_spec("ray") is None, reason="needs requirements/ray.txt")
def test_every_request_is_answered_though_a_node_is_killed() -> None:
    command = ["-m", "benchmarks.ray_cluster", "examples/otter.png", "--requests", "160", "--kill"]
    said = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert said.returncode == 0, said.stderr
    result = json.loads(said.stdout.splitlines()[-1])
    assert result["clients_at_kill"] > 0
    assert result["codes"] == {"200": 160}
    assert sum(result["answers_by_replica"].values()) > 0
