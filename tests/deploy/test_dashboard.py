"""The dashboard by itself: what it asks for exists, and a reader can tell what it shows."""

import re
from itertools import combinations
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from server.metrics import Metrics
from tests.deploy.dashboard import Query, load, panels, queries, variables

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
FIRST_ROW = ["Exit share", "Stop reasons", "Latency of /v1/classify", "Deadline misses"]


def exported_names(registry: CollectorRegistry) -> set[str]:
    return {
        family.name + suffix
        for family in registry.collect()
        for suffix in SUFFIXES.get(family.type, ())
    }


def title(panel: dict[str, Any]) -> str:
    return str(panel["title"])


@pytest.mark.parametrize("query", queries(), ids=str)
def test_metrics_are_the_servers(query: Query) -> None:
    used = set(re.findall(r"\bofframp_\w+", query.expression))
    assert used
    assert used - exported_names(Metrics().registry) == set()


def test_variables_ask_for_a_metric_of_the_server() -> None:
    assert list(variables()) == ["datasource", "model"]
    assert variables()["model"]["query"]["query"] == "label_values(offramp_model_info, model)"
    assert "offramp_model_info" in exported_names(Metrics().registry)


@pytest.mark.parametrize("panel", panels(), ids=title)
def test_panel_explains_itself(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")
    assert panel["options"]["legend"]["showLegend"] is True
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert all(legends)
    assert len(set(legends)) == len(legends)


@pytest.mark.parametrize("panel", panels(), ids=title)
def test_panel_asks_the_chosen_data_source(panel: dict[str, Any]) -> None:
    sources = [panel["datasource"]] + [target["datasource"] for target in panel["targets"]]
    assert {source["uid"] for source in sources} == {"${datasource}"}


def test_first_row() -> None:
    top = [panel for panel in panels() if panel["gridPos"]["y"] == 0]
    assert [panel["title"] for panel in top] == FIRST_ROW
    assert sum(panel["gridPos"]["w"] for panel in top) == 24


def test_panels_do_not_overlap() -> None:
    areas = [panel["gridPos"] for panel in load()["panels"]]
    assert all(area["x"] + area["w"] <= 24 for area in areas)
    for one, other in combinations(areas, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_panel_ids_are_unique() -> None:
    ids = [panel["id"] for panel in load()["panels"]]
    assert len(set(ids)) == len(ids)
