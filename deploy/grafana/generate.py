"""The dashboards as Grafana reads them: `python -m deploy.grafana.generate` writes the JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana import budgets, exits, service
from deploy.grafana.panels import SOURCE, Panel

DIRECTORY = Path(__file__).parent / "dashboards"
TAG = "offramp"
ALL = VariableOption(text="All", value="$__all")


def board(
    uid: str, description: str, rows: Mapping[str, Sequence[Panel]], *extra: QueryVariable
) -> Dashboard:
    """Rows of panels under the variables data source, model and version."""
    links = DashboardLink("Offramp").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    made = (
        Dashboard(f"Offramp: {uid}")
        .uid(f"offramp-{uid}")
        .description(description)
        .tags([TAG])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("5s")
        .time("now-15m", "now")
        .timezone("browser")
        .link(links.keep_time(True).include_vars(True))
    )
    for variable in (SOURCES, MODEL, VERSION, *extra):
        made = made.with_variable(variable)
    number = 0
    for title, panels in rows.items():
        number += 1
        made = made.with_row(Row(title).id(number))
        for panel in panels:
            number += 1
            made = made.with_panel(panel.id(number))
    return made


def variable(name: str, label: str, query: str) -> QueryVariable:
    """A label's values, asked for again whenever the time range changes."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"qryType": 1, "query": query, "refId": name})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NUMERICAL_ASC)
    )


SOURCES = DatasourceVariable("datasource").label("Data source").type("prometheus")
MODEL = variable("model", "Model", "label_values(offramp_model_info, model)")
VERSION = (
    variable("version", "Version", 'label_values(offramp_model_info{model="$model"}, version)')
    .description("Servers that have loaded this version; only they count.")
    .include_all(True)
    .all_value(".*")
    .current(ALL)
)
EXIT = (
    variable("exit", "Exit", 'label_values(offramp_exits_total{model="$model"}, exit)')
    .hide(VariableHide.HIDE_VARIABLE)
    .multi(True)
    .include_all(True)
    .current(ALL)
)

BOARDS = {
    "exits": board(
        "exits", "Where answers stop, why, and what calibration promised.", exits.ROWS, EXIT
    ),
    "budgets": board("budgets", "Deadlines, time and energy: allowed and spent.", budgets.ROWS),
    "service": board("service", "Requests, queue, processes, and what broke.", service.ROWS),
}


def text(made: Dashboard) -> str:
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main() -> None:
    for name, made in BOARDS.items():
        (DIRECTORY / f"{name}.json").write_text(text(made))


if __name__ == "__main__":
    main()
