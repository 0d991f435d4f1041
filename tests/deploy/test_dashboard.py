"""The dashboards by themselves: what they ask for exists, and a reader can tell what they show."""

import re
from itertools import combinations
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from benchmarks.process import ROOT
from deploy.grafana import generate
from models.bundle.energy import Rapl
from server.telemetry.metrics import Metrics
from tests.deploy.dashboard import BOARDS, Query, load, panels, queries, variables

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
PANELS = [(board, panel) for board in BOARDS for panel in panels(board)]


def exported_names(registry: CollectorRegistry) -> set[str]:
    return {
        family.name + suffix
        for family in registry.collect()
        for suffix in SUFFIXES.get(family.type, ())
    }


def title(value: object) -> str:
    return str(value["title"]) if isinstance(value, dict) else str(value)


def test_every_dashboard_is_committed() -> None:
    assert {path.stem for path in generate.DIRECTORY.iterdir()} == generate.BOARDS.keys()
    assert set(BOARDS) == generate.BOARDS.keys()


@pytest.mark.parametrize("board", BOARDS)
def test_committed_json_is_what_the_source_generates(board: str) -> None:
    committed = (generate.DIRECTORY / f"{board}.json").read_text()
    assert committed == generate.text(generate.BOARDS[board]), "run: make dashboards"


@pytest.mark.parametrize("query", queries(), ids=str)
def test_metrics_are_the_servers(query: Query) -> None:
    metrics = Metrics()
    metrics.meter_found(Rapl())
    used = set(re.findall(r"\bofframp_\w+", query.expression))
    assert used - exported_names(metrics.registry) == set()


@pytest.mark.parametrize("query", queries(), ids=str)
def test_only_known_variables_are_asked_for(query: Query) -> None:
    known = {*variables(query.board), "__rate_interval", "__range"}
    asked = set(re.findall(r"\$(\w+)", query.expression + query.panel + query.legend))
    assert asked <= known


@pytest.mark.parametrize("board", BOARDS)
def test_variables_are_model_and_version(board: str) -> None:
    assert list(variables(board))[:3] == ["datasource", "model", "version"]
    asked = {name: each.get("definition") for name, each in variables(board).items()}
    assert asked["model"] == "label_values(offramp_model_info, model)"
    assert asked["version"] == 'label_values(offramp_model_info{model="$model"}, version)'
    assert variables(board)["version"]["allValue"] == ".*"


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=title)
def test_panel_explains_itself(board: str, panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")
    legend = panel["options"]["legend"]
    assert legend.get("showLegend", legend.get("show")) is True
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert all(legends)
    assert len(set(legends)) == len(legends)


@pytest.mark.parametrize("board", BOARDS)
def test_guide_says_how_to_read_every_panel(board: str) -> None:
    _, _, section = (ROOT / "docs/operating.md").read_text().partition(f"### {board.title()}\n")
    rows = re.findall(r"^\| (.+?) \|", section.partition("\n##")[0], re.MULTILINE)
    explained = [name for row in rows[1:] for name in re.split("[,;] ", row)]
    assert sorted(explained) == sorted(p["title"].replace("$exit", "N") for p in panels(board))


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=title)
def test_panel_asks_the_chosen_data_source(board: str, panel: dict[str, Any]) -> None:
    sources = [panel["datasource"]] + [target["datasource"] for target in panel["targets"]]
    assert {source["uid"] for source in sources} == {"${datasource}"}


@pytest.mark.parametrize("board", BOARDS)
def test_panels_fill_rows_and_do_not_overlap(board: str) -> None:
    areas = [panel["gridPos"] for panel in load(board)["panels"]]
    assert all(area["x"] + area["w"] <= 24 for area in areas)
    for one, other in combinations(areas, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
    heights = {area["y"]: 0 for area in areas}
    for area in areas:
        heights[area["y"]] += area["w"]
    assert set(heights.values()) == {24}


@pytest.mark.parametrize("board", BOARDS)
def test_panel_ids_are_unique(board: str) -> None:
    ids = [panel["id"] for panel in load(board)["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("board", BOARDS)
def test_dashboards_link_to_each_other(board: str) -> None:
    (link,) = load(board)["links"]
    assert link["tags"] == load(board)["tags"] == ["offramp"]
    assert link["keepTime"] is True
    assert link["includeVars"] is True
