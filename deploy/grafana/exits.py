"""The dashboard *Exits*: where answers stop, why, and whether that is what calibration promised."""

from deploy.grafana.panels import Curve, Panel, bars, curves, heat, shares
from deploy.grafana.queries import quantile, rate, ratio

ANSWERS = rate("offramp_exits_total")
SHARE = ratio(rate("offramp_exits_total", "exit"), ANSWERS)
CALIBRATION = 'avg by (exit) (offramp_calibration_exit_ratio{model="$model"})'
STOPS = rate("offramp_stops_total")
RANGE = "$__range"
AGREED = rate("offramp_shadow_agreement_total", "exit", where='model="$model",result="agree"')

ROWS: dict[str, list[Panel]] = {
    "Exits": [
        shares(
            "Exit share",
            "Share of answers given at each exit. Under load or tight budgets it moves to earlier "
            "exits; compare it with the calibration split's, beside it.",
            Curve(SHARE, "exit {{exit}}"),
        ),
        shares(
            "Exit share of calibration",
            "Share of the calibration split that the balanced operating point stops at each exit: "
            "what to expect of the same inputs without load.",
            Curve(CALIBRATION, "exit {{exit}}"),
        ),
        curves(
            "Mean depth",
            "Segments run per answer, which is the mean exit; the number of exits is the most.",
            "short",
            Curve(f"{rate('offramp_batch_rows_sum')} / {ANSWERS}", "segments per answer"),
            Curve(f"count({CALIBRATION})", "exits"),
        ),
        shares(
            "Stop reasons",
            "Share of answers by why they stopped: confident enough, out of latency or energy "
            "budget, at the request's exit limit, at the final exit, or degraded because a later "
            "segment failed.",
            Curve(ratio(rate("offramp_stops_total", "reason"), STOPS), "{{reason}}"),
        ),
        curves(
            "Depth lost to load",
            "Share of answers that stopped for their deadline although the operating point would "
            "have gone on: accuracy paid for load or for tight budgets.",
            "percentunit",
            Curve(f"{rate('offramp_depth_limited_total')} / {ANSWERS}", "cut short"),
        ),
        curves(
            "Exit mix drift",
            "Share of answers that would have to move to another exit for the mix to be the "
            "calibration split's. It rises when inputs drift, when requests choose other operating "
            "points, or when budgets run out.",
            "percentunit",
            Curve(f"sum(abs({SHARE} - on (exit) {CALIBRATION})) / 2", "moved"),
        ),
    ],
    "Quality": [
        bars(
            "Exit share and calibration",
            "Share of answers at each exit over the dashboard's time range, above the share of the "
            "calibration split that the balanced operating point stops there.",
            "percentunit",
            Curve(
                ratio(
                    rate("offramp_exits_total", "exit", window=RANGE),
                    rate("offramp_exits_total", window=RANGE),
                ),
                "exit {{exit}} served",
            ),
            Curve(CALIBRATION, "exit {{exit}} calibration"),
        ),
        curves(
            "Confidence per exit",
            "Median confidence at each exit head that ran, estimated from the histogram's buckets. "
            "An exit whose head did not run has no line. "
            "Versions may measure confidence differently.",
            "percentunit",
            Curve(quantile(0.5, rate("offramp_confidence_bucket", "le", "exit")), "exit {{exit}}"),
        ),
        curves(
            "Shadow agreement",
            "Share of early answers that the last exit, run afterwards without haste, agrees with: "
            "the nearest thing to accuracy without labels. No line without shadow runs.",
            "percentunit",
            Curve(f"{AGREED} / {rate('offramp_shadow_agreement_total', 'exit')}", "exit {{exit}}"),
        ),
    ],
    "Confidence": [
        heat(
            "Confidence at exit $exit",
            "How often this exit's head said each confidence. Mass that sinks means harder or "
            "stranger images; all of it at the top means the exit could stop more.",
            "percentunit",
            rate("offramp_confidence_bucket", "le", where='model="$model",exit="$exit"'),
            repeat="exit",
        )
    ],
}
