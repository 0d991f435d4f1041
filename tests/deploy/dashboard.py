"""The committed dashboard as typed panels and queries."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT

PATH = ROOT / "deploy/grafana/dashboards/exits.json"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel; an instant query gives one value per series, others a curve."""

    panel: str
    legend: str
    expression: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.panel}: {self.legend}"

    def substituted(self, variables: dict[str, str]) -> str:
        """The expression that Prometheus gets, each `$name` replaced by its value."""
        expression = self.expression
        for name, value in variables.items():
            expression = expression.replace(f"${name}", value)
        return expression


def load(path: Path = PATH) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text())
    return board


def panels() -> list[dict[str, Any]]:
    """Every panel that draws something, in the order of the page."""
    return [panel for panel in load()["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    return [
        Query(panel["title"], target["legendFormat"], target["expr"], bool(target.get("instant")))
        for panel in panels()
        for target in panel["targets"]
    ]


def variables() -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in load()["templating"]["list"]}
