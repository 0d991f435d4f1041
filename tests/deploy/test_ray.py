"""Offramp on a real Ray cluster of two nodes, one of which is killed under load; metrics."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml

from benchmarks.process import ROOT
from tests.deploy.test_prometheus import executable

LIMIT_S = 600
CONFIGURATION = ROOT / "deploy/ray/prometheus.yml"


@pytest.mark.alone
@pytest.mark.skipif(find_spec("ray") is None, reason="needs requirements/ray.txt")
def test_every_request_is_answered_though_a_node_is_killed() -> None:
    command = ["-m", "benchmarks.ray_cluster", "examples/otter.png", "--requests", "320", "--kill"]
    said = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"OFFRAMP_PROFILE_S": "0.2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert said.returncode == 0, said.stderr
    result = json.loads(said.stdout.splitlines()[-1])
    assert result["clients_at_kill"] > 0
    assert result["codes"] == {"200": 320}
    before, after = result["images_at_kill"], result["images_at_end"]
    assert result["queue_depth_at_kill"].keys() == before.keys()
    assert len(before) == 2
    assert min(before.values()) > 0
    (survivor,) = after
    assert after[survivor] > before[survivor]


def relabelled(name: str, replica: str) -> dict[str, str] | None:
    """What the committed configuration makes of a series of Ray's exporters; None: dropped."""
    (job,) = yaml.safe_load(CONFIGURATION.read_text())["scrape_configs"]
    labels = {"__name__": name, "replica": replica, "instance": "node"}
    for rule in job["metric_relabel_configs"]:
        source = ";".join(labels[name] for name in rule["source_labels"])
        if (found := re.fullmatch(rule["regex"], source)) is None:
            continue
        if rule.get("action") == "drop":
            return None
        template = rule.get("replacement", "$1").replace("$", "\\")
        labels[rule["target_label"]] = found.expand(template)
    return labels


@pytest.mark.parametrize(
    ("name", "replica", "expected"),
    [
        ("ray_offramp_exits_total", "r1", ("offramp_exits_total", "r1")),
        ("ray_process_open_fds", "r1", ("process_open_fds", "r1")),
        ("ray_serve_num_replicas", "r1", ("ray_serve_num_replicas", "node")),
        ("ray_node_mem_used", "", ("ray_node_mem_used", "node")),
    ],
)
def test_series_get_the_names_that_rules_ask_for(
    name: str, replica: str, expected: tuple[str, str]
) -> None:
    labels = relabelled(name, replica)
    assert labels is not None
    assert (labels["__name__"], labels["instance"]) == expected


def test_memory_of_rays_exporters_is_nobodys() -> None:
    assert relabelled("process_resident_memory_bytes", "") is None


def test_configuration_is_valid() -> None:
    subprocess.run([executable("promtool"), "check", "config", CONFIGURATION], check=True)
