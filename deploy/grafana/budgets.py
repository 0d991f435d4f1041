"""The dashboard *Budgets*: what requests were allowed, what they spent, and what was late."""

from deploy.grafana.panels import QUANTILES, Curve, Panel, curves
from deploy.grafana.queries import quantile, rate, rate_of_servers, ratio

SLACK, OVERRUN = "offramp_budget_slack_seconds", "offramp_budget_overrun_seconds"
MISSES = rate("offramp_deadline_misses_total")
WITH_DEADLINE = f"({rate(f'{SLACK}_count')} + {rate(f'{OVERRUN}_count')})"
ANSWERS = rate("offramp_exits_total")
LATENCY = rate("offramp_answer_duration_seconds_bucket", "le", "exit")
CORE_TIME = rate("offramp_segment_duration_seconds_bucket", "le", "exit")
JOULES = rate("offramp_energy_joules_total", "source")
METER = rate_of_servers("offramp_meter_joules_total", "source")
STOPS_FOR = 'model="$model",reason=~"deadline|energy"'


def quantiles(metric: str) -> list[Curve]:
    """Of a histogram of the model."""
    buckets = rate(f"{metric}_bucket", "le")
    return [Curve(quantile(share, buckets), f"p{100 * share:.0f}") for share in QUANTILES]


def named(name: str, series: str) -> str:
    """Series with a further label `of`."""
    return f'label_replace({series}, "of", "{name}", "", "")'


ROWS: dict[str, list[Panel]] = {
    "Deadlines": [
        curves(
            "Deadline misses",
            "Share of the answers with a latency budget that came after it. No line while no "
            "request brings one.",
            "percentunit",
            Curve(f"{MISSES} / {WITH_DEADLINE}", "missed"),
        ),
        curves(
            "Slack",
            "Latency budget that was left at the answer. The lowest quantile says how close to its "
            "deadline an answer came.",
            "s",
            *(
                Curve(quantile(share, rate(f"{SLACK}_bucket", "le")), f"p{100 * share:.0f}")
                for share in (0.05, 0.5, 0.95)
            ),
        ),
        curves("Overrun", "Time past the deadline, of late answers.", "s", *quantiles(OVERRUN)),
        curves(
            "Late and refused",
            "Answers per second that came after their deadline, and images refused before any "
            "work, over all models: overload, when the first answer would have come too late or no "
            "slot was free; bodies, connections or requests, when the server held as many as its "
            "settings allow; infeasible, when a strict request's budget was less than exit 1 "
            "costs; background, requests that found no slot for work in idle time.",
            "ops",
            Curve(MISSES, "late"),
            Curve(rate_of_servers("offramp_shed_total", "reason"), "refused: {{reason}}"),
        ),
        curves(
            "Out of budget",
            "Answers per second that stopped because the next exit did not fit the budget. They "
            "are in time, and as good as the budget allows.",
            "ops",
            Curve(rate("offramp_stops_total", "reason", where=STOPS_FOR), "{{reason}}"),
        ),
        curves(
            "Queue wait",
            "Time an image waited for a worker, summed over its segments.",
            "s",
            *quantiles("offramp_queue_wait_seconds"),
        ),
    ],
    "Time per exit": [
        curves(
            "Latency per exit (median)",
            "Median time from a request's arrival to its answer, by the exit that answered: "
            "reading, decoding, waiting and all segments.",
            "s",
            Curve(quantile(0.5, LATENCY), "exit {{exit}}"),
            width=6,
        ),
        curves(
            "Latency per exit (p99)",
            "99th percentile of the time from a request's arrival to its answer, by the exit that "
            "answered.",
            "s",
            Curve(quantile(0.99, LATENCY), "exit {{exit}}"),
            width=6,
        ),
        curves(
            "Core time (median)",
            "Median of the time that a thread spent on its core in one run of a segment for a "
            "whole batch, by the exit it leads to.",
            "s",
            Curve(quantile(0.5, CORE_TIME), "segment {{exit}}"),
            width=6,
        ),
        curves(
            "Core time (p95)",
            "95th percentile of the time that a thread spent on its core in one run of a segment "
            "for a whole batch, by the exit it leads to.",
            "s",
            Curve(quantile(0.95, CORE_TIME), "segment {{exit}}"),
            width=6,
        ),
    ],
    "Energy": [
        curves(
            "Energy per answer",
            "Mean energy spent on an answer, by where the number comes from: a meter (rapl, nvml) "
            "or the estimate of busy seconds times configured watts per core.",
            "joule",
            Curve(ratio(JOULES, ANSWERS), "{{source}}"),
            width=12,
        ),
        curves(
            "Power",
            "Energy spent on answers per second, by where the number comes from, and what the "
            "meter of the whole host counts, where there is one, once for every server on it.",
            "watt",
            Curve(f"{named('answers', JOULES)} or {named('host', METER)}", "{{of}}: {{source}}"),
            width=12,
        ),
    ],
}
