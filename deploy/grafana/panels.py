"""The kinds of panel the dashboards are made of; each has a description, a unit and a legend."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, timeseries
from grafana_foundation_sdk.builders.dashboard import FieldColor
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BarGaugeValueMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import FieldColorModeId
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = HEIGHT = 8
QUANTILES = (0.5, 0.95, 0.99)

Panel = timeseries.Panel | bargauge.Panel | heatmap.Panel


@dataclass(frozen=True, slots=True)
class Curve:
    """A PromQL expression and what its series are called, where {{label}} is a label's value."""

    expression: str
    legend: str


def curves(
    title: str, description: str, unit: str, *lines: Curve, width: int = WIDTH
) -> timeseries.Panel:
    """Lines over time, from zero."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .line_width(1)
        .fill_opacity(10)
        .show_points(VisibilityMode.NEVER)
        .legend(legend())
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .span(width)
        .height(HEIGHT)
    )
    for ref_id, line in zip("ABCDEFGH", lines, strict=False):
        panel = panel.with_target(query(ref_id, line).range())
    return panel


def shares(title: str, description: str, line: Curve) -> timeseries.Panel:
    """The parts of a whole over time, stacked to 100%."""
    stacking = common.StackingConfig().mode(StackingMode.NORMAL).group("A")
    panel = curves(title, description, "percentunit", line)
    return panel.max(1).fill_opacity(60).stacking(stacking)


def bars(title: str, description: str, unit: str, *lines: Curve) -> bargauge.Panel:
    """One bar per series, of the whole time range."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .orientation(VizOrientation.HORIZONTAL)
        .display_mode(BarGaugeDisplayMode.BASIC)
        .value_mode(BarGaugeValueMode.TEXT)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .legend(legend())
        .span(WIDTH)
        .height(HEIGHT)
    )
    for ref_id, line in zip("ABCDEFGH", lines, strict=False):
        panel = panel.with_target(query(ref_id, line).instant())
    return panel


def heat(title: str, description: str, unit: str, buckets: str, repeat: str) -> heatmap.Panel:
    """How often each bucket of a histogram was hit, one panel per value of the variable."""
    target = query("A", Curve(buckets, "{{le}}")).range().format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("short")
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges"))
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .tooltip(heatmap.HeatmapTooltip().mode(TooltipDisplayMode.SINGLE).show_color_scale(True))
        .show_legend()
        .repeat(repeat)
        .repeat_direction("h")
        .max_per_row(4)
        .span(24)
        .height(HEIGHT)
        .with_target(target)
    )


def legend() -> common.VizLegendOptions:
    options = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST)
    return options.placement(LegendPlacement.BOTTOM).show_legend(True)


def query(ref_id: str, line: Curve) -> prometheus.Dataquery:
    dataquery = prometheus.Dataquery().datasource(SOURCE).ref_id(ref_id)
    return dataquery.expr(line.expression).legend_format(line.legend)
