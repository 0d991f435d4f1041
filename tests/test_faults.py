"""Every test that docs/faults.md names exists."""

import ast
import re

from benchmarks.process import ROOT

NAMED = re.compile(r"`([\w/]+\.py)(?:::(test_\w+))?`")
PLACES = ("tests", ".")
"""Tests are named without their directory, benchmarks with it."""
LIST = "## What users of such systems trip over"
TEXT = (ROOT / "docs/faults.md").read_text()


def is_there(file: str, function: str) -> bool:
    paths = [ROOT / place / file for place in PLACES if (ROOT / place / file).is_file()]
    if not paths or not function:
        return bool(paths)
    nodes = ast.parse(paths[0].read_text()).body
    return function in {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_named_test_exists() -> None:
    named = set(NAMED.findall(TEXT))
    assert len(named) > 80
    assert sorted(name for name in named if not is_there(*name)) == []


def test_every_situation_of_the_list_names_its_tests() -> None:
    section = TEXT.partition(LIST)[2].partition("\n## ")[0]
    _, *rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 30
    assert [row for row in rows if "::test_" not in row] == []
