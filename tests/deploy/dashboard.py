"""The committed dashboards as typed panels and queries."""

import json
from dataclasses import dataclass
from typing import Any

from deploy.grafana.generate import DIRECTORY

BOARDS = ("exits", "budgets", "service")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel; an instant query gives one value per series, others a curve."""

    board: str
    panel: str
    legend: str
    expression: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.board}: {self.panel}: {self.legend}"

    def substituted(self, variables: dict[str, str]) -> str:
        """The expression that Prometheus gets, each `$name` replaced by its value."""
        expression = self.expression
        for name, value in variables.items():
            expression = expression.replace(f"${name}", value)
        return expression


def load(board: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DIRECTORY / f"{board}.json").read_text())
    return content


def panels(board: str) -> list[dict[str, Any]]:
    """Every panel that draws something, in the order of the page."""
    return [panel for panel in load(board)["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    return [
        Query(board, panel["title"], target["legendFormat"], target["expr"], target["instant"])
        for board in BOARDS
        for panel in panels(board)
        for target in panel["targets"]
    ]


def variables(board: str) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in load(board)["templating"]["list"]}
