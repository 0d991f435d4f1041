"""The committed recording rules and alerts."""

from typing import Any

import yaml

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
