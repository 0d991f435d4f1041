"""The committed recording rules and alerts, and the autoscaler's query."""

from typing import Any

import yaml

from benchmarks.process import ROOT
from benchmarks.prometheus import DIRECTORY

FILES = sorted(DIRECTORY.glob("rules*.yml"))
RULES: list[dict[str, Any]] = [
    rule
    for file in FILES
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}


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
