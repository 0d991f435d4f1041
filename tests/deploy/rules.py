"""The committed recording rules and alerts, and the autoscaler's query."""

import re
from typing import Any

import yaml

from benchmarks.process import ROOT
from benchmarks.prometheus import DIRECTORY

FILES = sorted(DIRECTORY.glob("rules*.yml"))
Rule = dict[str, Any]
GROUPS: list[dict[str, Any]] = [
    group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]
]
RULES: list[Rule] = [rule for group in GROUPS for rule in group["rules"]]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


def recorded_in(rule: Rule) -> set[str]:
    """The recording rules that a rule asks for."""
    return set(re.findall(r"\b\w+:\w+:\w+", re.sub(r"#.*", "", rule["expr"])))


def groups_for(alert: str) -> list[dict[str, Any]]:
    """The groups with the rules that an alert depends on, and no others."""
    needed, found = [ALERTS[alert]], list[Rule]()
    while needed:
        found.append(rule := needed.pop())
        needed += [r for r in RULES if r.get("record") in recorded_in(rule) and r not in found]
    kept = [{**group, "rules": [r for r in group["rules"] if r in found]} for group in GROUPS]
    return [group for group in kept if group["rules"]]


def autoscaler_query(matchers: str, by: str) -> str:
    """What prometheus-adapter makes of its rule for some pods."""
    adapter = yaml.safe_load((ROOT / "deploy/kubernetes/prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    query: str = rule["metricsQuery"]
    for name, value in (
        ("Series", rule["seriesQuery"].partition("{")[0]),
        ("LabelMatchers", matchers),
        ("GroupBy", by),
    ):
        query = query.replace(f"<<.{name}>>", value)
    if "<<" in query:
        raise ValueError(f"not all is filled in: {query}")
    return query
