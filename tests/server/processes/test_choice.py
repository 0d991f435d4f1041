"""How many processes there are: by cores, by what the bundles cost, and by what is set."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.process import ROOT
from server.processes import choice
from server.processes.choice import num_processes
from server.settings import load_settings

SHIPPED = ROOT / "models/zoo"
COST = "cifar100-msdnet/7/cost.json"


def slow(zoo: Path, segment_s: float = 1.0) -> Path:
    """A zoo whose bundle takes so many seconds a segment."""
    cost = json.loads((SHIPPED / COST).read_text())
    for graph in cost["segments"]:
        graph["median_s"] = [segment_s] * len(graph["median_s"])
    (zoo / COST).parent.mkdir(parents=True)
    (zoo / COST).write_text(json.dumps(cost))
    return zoo


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 8),
        ({"processes": 3}, 3),
        ({"workers": 2}, 4),
        ({"workers": 100}, 1),
        ({"execution_provider": "AzureExecutionProvider"}, 1),
    ],
)
def test_a_short_network_gets_a_process_per_core(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], expected: int
) -> None:
    monkeypatch.setattr(choice, "NUM_CORES", 8)
    assert num_processes(load_settings(zoo=SHIPPED, **options)) == expected


def test_a_long_network_of_short_steps_gets_a_process_per_core(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Seven segments and heads: no core but one would work if they all ran on one event loop."""
    monkeypatch.setattr(choice, "NUM_CORES", 8)
    assert num_processes(load_settings(zoo=slow(tmp_path / "short", 0.008))) == 8
    assert num_processes(load_settings(zoo=slow(tmp_path / "long", 0.0101))) == 1


def test_a_long_network_gets_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choice, "NUM_CORES", 8)
    assert num_processes(load_settings(zoo=slow(tmp_path))) == 1
    (tmp_path / "words/1").mkdir(parents=True)
    (tmp_path / "words/1/cost.json").write_text("damaged")
    assert num_processes(load_settings(zoo=tmp_path)) == 1
    assert num_processes(load_settings(zoo=tmp_path / "nowhere")) == 1


def test_the_parent_loads_neither_onnxruntime_nor_the_application() -> None:
    code = (
        "import sys, server.processes.cli; "
        "print([m for m in ('onnxruntime', 'fastapi', 'uvicorn', 'PIL') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
