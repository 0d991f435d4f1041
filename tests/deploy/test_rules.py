"""Recording rules and alerts, run by promtool on made-up series: each fires, and keeps still."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import ROOT
from server.telemetry.metrics import Metrics
from tests.deploy.rules import ALERTS, RECORDED, RULES, groups_for, recorded_in
from tests.deploy.test_dashboard import exported_names
from tests.deploy.test_prometheus import executable

Series = dict[str, str]


def requests(good: float, bad: float, code: int = 500, route: str = "/v1/classify") -> Series:
    """Requests a minute that were answered, and that were not."""
    return {
        f'offramp_requests_total{{route="{route}",code="200"}}': rising(good),
        f'offramp_requests_total{{route="{route}",code="{code}"}}': rising(bad),
        'offramp_shed_total{reason="infeasible"}': rising(0),
        'offramp_shed_total{reason="background"}': rising(0),
    }


def answers(*by_exit: float) -> Series:
    """Answers a minute at each exit."""
    return {
        f'offramp_exits_total{{model="m",exit="{exit}"}}': rising(rate)
        for exit, rate in enumerate(by_exit, start=1)
    }


def of_model(name: str, rate: float, **labels: str) -> Series:
    """A counter of model m that grows by so much a minute."""
    text = "".join(f',{key}="{value}"' for key, value in labels.items())
    return {f'offramp_{name}{{model="m"{text}}}': rising(rate)}


def rising(rate: float, minutes: int = 10_000) -> str:
    return f"0+{rate:g}x{minutes}"


def level(value: float, minutes: int = 10_000) -> str:
    return f"{value:g}+0x{minutes}"


def durations(slow: float) -> Series:
    """A hundred requests a minute, some of which take between 1 and 2.5 seconds."""
    name = "offramp_request_duration_seconds_bucket"
    by_bound = {"1": 100 - slow, "2.5": 100, "+Inf": 100}
    buckets = {f'{name}{{route="/v1/classify",le="{le}"}}': rising(r) for le, r in by_bound.items()}
    return buckets | requests(100, 0)


def deadlines(met: float, missed: float) -> Series:
    return (
        of_model("budget_slack_seconds_count", met)
        | of_model("budget_overrun_seconds_count", missed)
        | of_model("deadline_misses_total", missed)
    )


def load(in_flight: float, answered: float = 100, refused: float = 0) -> Series:
    return of_model("inferences_total", answered, outcome="answered") | {
        'offramp_in_flight{job="offramp"}': level(in_flight),
        'offramp_queue_capacity{job="offramp"}': level(256),
        'offramp_shed_total{reason="connections"}': rising(refused),
    }


def mix(*by_exit: float, depth_limited: float = 0) -> Series:
    """Answers beside a calibration split of which half stops at either exit."""
    calibration = {
        f'offramp_calibration_exit_ratio{{model="m",exit="{exit}"}}': level(0.5) for exit in (1, 2)
    }
    return answers(*by_exit) | calibration | of_model("depth_limited_total", depth_limited)


def shadow(agree: float, differ: float) -> Series:
    agreed = of_model("shadow_agreement_total", agree, exit="1", result="agree")
    return agreed | of_model("shadow_agreement_total", differ, exit="1", result="differ")


def memory(growth: float, started: int = 0) -> Series:
    """100 MB at first, and growth in bytes a minute."""
    return {
        'process_resident_memory_bytes{job="offramp",instance="a"}': f"100000000+{growth:g}x10000",
        'process_start_time_seconds{job="offramp",instance="a"}': level(started),
    }


def started(*times: int) -> Series:
    """When a server's process was started, as seen for ten minutes each."""
    seen = " ".join(f"{time}x9" for time in times)
    return {'process_start_time_seconds{job="offramp",instance="a"}': seen}


def energy(before: str, after: str) -> Series:
    """Joules a minute, first for two hours, then for one; a hundred answers a minute."""
    text = f"0+{before}x120 {120 * int(before)}+{after}x60"
    return {'offramp_energy_joules_total{model="m",source="estimate"}': text} | answers(100)


@dataclass(frozen=True, slots=True)
class Case:
    """What Prometheus scrapes once in a step, and whether the alert then fires at a time."""

    alert: str
    what: str
    series: Series
    at: str
    fires: bool
    step: str = "1m"

    def __str__(self) -> str:
        return f"{self.alert}: {self.what}"


UP = 'up{job="offramp",instance="a"}'
GRPC = "/inference.GRPCInferenceService/ModelInfer"
CASES = (
    Case("OfframpDown", "the scrape fails", {UP: "1 1 0 0 0"}, "4m", True),
    Case("OfframpDown", "nobody knows a server", {}, "4m", True),
    Case("OfframpDown", "one scrape fails", {UP: "1 1 0 1 1"}, "4m", False),
    Case("OfframpErrorBudgetBurnFast", "2% fail", requests(98, 2), "70m", True),
    Case("OfframpErrorBudgetBurnFast", "2% refused", requests(98, 2, 503), "70m", True),
    Case("OfframpErrorBudgetBurnFast", "2% of gRPC fail", requests(98, 2, route=GRPC), "70m", True),
    Case(
        "OfframpErrorBudgetBurnFast",
        "2% fail beside many probes",
        requests(98, 2) | requests(10_000, 0, route="/v2/health/ready"),
        "70m",
        True,
    ),
    Case("OfframpErrorBudgetBurnFast", "0.7% fail for hours", requests(993, 7), "6h", True, "5m"),
    Case("OfframpErrorBudgetBurnFast", "0.5% fail", requests(995, 5), "70m", False),
    Case(
        "OfframpErrorBudgetBurnFast",
        "strict requests ask for too much",
        requests(50, 50, 503) | {'offramp_shed_total{reason="infeasible"}': rising(50)},
        "70m",
        False,
    ),
    Case(
        "OfframpErrorBudgetBurnFast",
        "background requests find no slot",
        requests(50, 50, 503) | {'offramp_shed_total{reason="background"}': rising(50)},
        "70m",
        False,
    ),
    Case(
        "OfframpErrorBudgetBurnFast",
        "2% fail beside refused background requests",
        requests(98, 52, 503) | {'offramp_shed_total{reason="background"}': rising(50)},
        "70m",
        True,
    ),
    Case("OfframpErrorBudgetBurnFast", "clients err", requests(50, 50, 400), "70m", False),
    Case("OfframpErrorBudgetBurnFast", "one request", requests(0.1, 0.1), "70m", False),
    Case("OfframpErrorBudgetBurnSlow", "0.4% fail", requests(996, 4), "25h", True, "5m"),
    Case("OfframpErrorBudgetBurnSlow", "0.2% fail", requests(998, 2), "73h", True, "5m"),
    Case("OfframpErrorBudgetBurnSlow", "0.05% fail", requests(1999, 1), "73h", False, "5m"),
    Case("OfframpDeadlineMissesHigh", "one in ten", deadlines(90, 10), "15m", True),
    Case("OfframpDeadlineMissesHigh", "one in a hundred", deadlines(99, 1), "15m", False),
    Case("OfframpDeadlineMissesHigh", "hardly a request", deadlines(0, 1), "15m", False),
    Case("OfframpLatencyHigh", "one in twenty is slow", durations(5), "20m", True),
    Case("OfframpLatencyHigh", "one in a thousand is slow", durations(0.1), "20m", False),
    Case("OfframpQueueSaturated", "slots taken", load(250), "15m", True),
    Case("OfframpQueueSaturated", "images refused", load(30, refused=5), "15m", True),
    Case("OfframpQueueSaturated", "slots free", load(200), "15m", False),
    Case("OfframpQueueSaturated", "one refused", load(30, 1000, refused=1), "15m", False),
    Case(
        "OfframpQueueSaturated",
        "background requests find no slot",
        load(30) | {'offramp_shed_total{reason="background"}': rising(600)},
        "15m",
        False,
    ),
    Case("OfframpBrownOut", "a third cut short", mix(50, 50, depth_limited=33), "20m", True),
    Case("OfframpBrownOut", "a tenth cut short", mix(50, 50, depth_limited=10), "20m", False),
    Case("OfframpBrownOut", "a short burst", mix(50, 50, depth_limited=33), "8m", False),
    Case("OfframpExitMixDrift", "inputs got easier", mix(80, 20), "45m", True),
    Case("OfframpExitMixDrift", "as calibrated", mix(55, 45), "45m", False),
    Case("OfframpExitMixDrift", "load, not inputs", mix(80, 20, depth_limited=30), "45m", False),
    Case("OfframpExitMixDrift", "hardly a request", mix(0.5, 0), "45m", False),
    Case("OfframpShadowAgreementLow", "three in ten differ", shadow(7, 3), "45m", True),
    Case("OfframpShadowAgreementLow", "one in ten differs", shadow(9, 1), "45m", False),
    Case("OfframpShadowAgreementLow", "nobody looks", shadow(0, 0), "45m", False),
    Case(
        "OfframpModelLoadFailed",
        "a new version",
        {'offramp_model_load_failures_total{model="m",instance="a"}': "0x10 1x10"},
        "12m",
        True,
    ),
    Case(
        "OfframpModelLoadFailed",
        "a model never loaded",
        {'offramp_model_load_failures_total{model="m"}': "_x10 1x10"},
        "12m",
        True,
    ),
    Case(
        "OfframpModelLoadFailed",
        "long ago",
        {'offramp_model_load_failures_total{model="m"}': "0 1x60"},
        "30m",
        False,
    ),
    Case(
        "OfframpWorkerRestarted",
        "once",
        {'offramp_worker_restarts_total{instance="a"}': "0x5 1x5"},
        "8m",
        True,
    ),
    Case(
        "OfframpWorkerRestarted", "never", {"offramp_worker_restarts_total": "3x30"}, "20m", False
    ),
    Case(
        "OfframpWorkerRestarted",
        "one of several processes killed",
        started(100, 700) | {'offramp_process_restarts_total{instance="a"}': "0x9 1x9"},
        "12m",
        True,
    ),
    Case("OfframpWorkerRestarted", "killed twice", started(100, 700, 1300), "30m", True),
    Case(
        "OfframpWorkerRestarted",
        "deployed once",
        started(100, 700, 700) | {'offramp_process_restarts_total{instance="a"}': "0x29"},
        "30m",
        False,
    ),
    Case(
        "OfframpSegmentDisabled",
        "open",
        of_model("segment_disabled", 0, exit="2")
        | {'offramp_segment_disabled{model="m",exit="3"}': level(1)},
        "5m",
        True,
    ),
    Case(
        "OfframpSegmentDisabled", "closed", of_model("segment_disabled", 0, exit="2"), "5m", False
    ),
    Case("OfframpMemoryGrowth", "1 MB a minute", memory(1e6), "5h", True),
    Case("OfframpMemoryGrowth", "1 kB a minute", memory(1e3), "5h", False),
    Case("OfframpMemoryGrowth", "while loading", memory(1e6, started=3 * 3600), "5h", False),
    Case("OfframpEnergyHigh", "twice as much", energy("10", "20"), "170m", True),
    Case("OfframpEnergyHigh", "a fifth more", energy("10", "12"), "170m", False),
    Case("OfframpEnergyHigh", "no history", energy("10", "20"), "50m", False),
)

Said = tuple[dict[str, str], str, str]
"""An alert's labels but its severity, and its summary and description as rendered."""
M = {"model": "m"}
JOB = {"job": "offramp"}
FAIL = " of requests fail or are refused; 0.1% may."
SAID: dict[str, Said] = {
    "OfframpDown: the scrape fails": (
        JOB | {"instance": "a"},
        "Offramp does not answer Prometheus",
        "No scrape of a has succeeded for a minute.",
    ),
    "OfframpDown: nobody knows a server": (
        JOB,
        "Offramp does not answer Prometheus",
        "Prometheus knows no server.",
    ),
    "OfframpErrorBudgetBurnFast: 2% fail": (
        {},
        "A month's error budget is gone within days",
        "2%" + FAIL,
    ),
    "OfframpErrorBudgetBurnSlow: 0.4% fail": (
        {},
        "The error budget will not last the month",
        "0.4%" + FAIL,
    ),
    "OfframpDeadlineMissesHigh: one in ten": (
        M,
        "Answers of m come too late",
        "10% of the answers with a latency budget come after it.",
    ),
    "OfframpLatencyHigh: one in twenty is slow": (
        {"route": "/v1/classify"},
        "/v1/classify is slow",
        "The 99th percentile of its duration is 2.2s.",
    ),
    "OfframpQueueSaturated: slots taken": (
        JOB,
        "There is more work than exit 1 can answer in time",
        "97.66% of the slots are taken, or of the images are refused.",
    ),
    "OfframpBrownOut: a third cut short": (
        M,
        "m pays for load with accuracy",
        "33% of answers stop for their deadline before the exit they want.",
    ),
    "OfframpExitMixDrift: inputs got easier": (
        M,
        "m stops elsewhere than on its calibration split",
        "30% of answers would have to move to another exit.",
    ),
    "OfframpShadowAgreementLow: three in ten differ": (
        M,
        "Early answers of m differ from its last exit's",
        "Only 70% agree.",
    ),
    "OfframpModelLoadFailed: a new version": (
        M | {"instance": "a"},
        "A bundle of m was refused",
        "a goes on with the version it was serving, if it had one; its log says why.",
    ),
    "OfframpWorkerRestarted: once": (
        {"instance": "a"},
        "Worker threads or processes were replaced, or a server keeps ending",
        "a replaced 1 threads or processes in 15 minutes, or started as often within an hour.",
    ),
    "OfframpSegmentDisabled: open": (
        M | {"exit": "3"},
        "Segment 3 of m failed too often",
        "Answers stop before it, as degraded, until a trial run of it succeeds.",
    ),
    "OfframpMemoryGrowth: 1 MB a minute": (
        JOB | {"instance": "a"},
        "a grows",
        "At this rate it takes 1.043GiB in twelve hours, twice what it takes now.",
    ),
    "OfframpEnergyHigh: twice as much": (
        M,
        "Answers of m cost more energy",
        "An answer takes 200mJ, half as much again as over the last day.",
    ),
}


def firing(alert: str) -> str:
    return f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'


def run(case: Case, directory: Path) -> None:
    """Lets promtool count the firing alerts of the name, and render them where it is known how."""
    sample = {"labels": "{}", "value": int(case.fires)}
    test: dict[str, Any] = {
        "interval": case.step,
        "input_series": [{"series": name, "values": v} for name, v in case.series.items()],
        "promql_expr_test": [
            {"expr": firing(case.alert), "eval_time": case.at, "exp_samples": [sample]}
        ],
    }
    if str(case) in SAID:
        expected = [rendered(case.alert, *SAID[str(case)])]
        test["alert_rule_test"] = [
            {"alertname": case.alert, "eval_time": case.at, "exp_alerts": expected}
        ]
    # all rules at every step would take three times as long
    rules, file = directory / "rules.yml", directory / "test.yml"
    rules.write_text(json.dumps({"groups": groups_for(case.alert)}))
    content = {"rule_files": [str(rules)], "evaluation_interval": case.step, "tests": [test]}
    file.write_text(json.dumps(content))
    said = subprocess.run(
        [executable("promtool"), "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr


def rendered(alert: str, labels: dict[str, str], summary: str, description: str) -> dict[str, Any]:
    rule = ALERTS[alert]
    texts = {"summary": summary, "description": description}
    return {
        "exp_labels": rule["labels"] | labels,
        "exp_annotations": rule["annotations"] | texts,
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_alert(case: Case, tmp_path: Path) -> None:
    run(case, tmp_path)


def test_every_alert_is_seen_to_fire_and_to_keep_still() -> None:
    for name in ALERTS:
        assert {case.fires for case in CASES if case.alert == name} == {True, False}


def test_every_alert_is_read() -> None:
    assert SAID.keys() <= {str(case) for case in CASES}
    assert {case.partition(":")[0] for case in SAID} == ALERTS.keys()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record", rule.get("alert")))
def test_rule_asks_for_what_exists(rule: dict[str, Any]) -> None:
    code = re.sub(r"#.*", "", rule["expr"])
    assert recorded_in(rule) <= RECORDED.keys()
    assert set(re.findall(r"\bofframp_\w+", re.sub(r"\b\w+:\w+:\w+", "", code))) <= exported_names(
        Metrics().registry
    )


@pytest.mark.parametrize("name", RECORDED)
def test_recording_rule_is_used_and_named_by_convention(name: str) -> None:
    assert re.fullmatch(r"(offramp|route|model|model_exit):\w+:\w+", name)
    assert any(name in rule["expr"] for rule in RULES)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_says_how_bad_it_is_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert re.fullmatch(r"Offramp([A-Z][a-z]+)+", name)
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"


def test_guide_says_of_every_alert_and_no_other_what_to_do_and_when_to_move_it() -> None:
    alerts = (ROOT / "docs/alerts.md").read_text()
    sections = [text.strip().split("\n\n") for text in alerts.split("\n## ")[1:]]
    assert [name for name, *_ in sections] == list(ALERTS)
    for name, *to_do, move in sections:
        assert to_do, name
        assert move.startswith(("Set ", "Raise ", "Lower ")), name
