"""The autoscaler's metric, computed by promtool from made-up series of two pods."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.deploy.rules import autoscaler_query
from tests.deploy.test_prometheus import executable

POD = 'namespace="n",pod="a"'
OTHER_POD = 'namespace="n",pod="b"'


@pytest.mark.parametrize(
    ("answered", "cut_short", "refused", "expected"),
    [
        (90, 30, 0, 1 / 3),
        (0, 0, 90, 1),  # not one answer lost depth: there was none
        (45, 15, 45, 2 / 3),
        (90, 0, 0, 0),
        (0, 0, 0, 0),
        (1, 1, 0, 1 / 6),  # one image a minute does not make a server
    ],
)
def test_depth_lost_of_a_pod(
    answered: float, cut_short: float, refused: float, expected: float, tmp_path: Path
) -> None:
    """Of so many images a minute; half are answered at each exit."""
    by_series = {
        f'offramp_shed_total{{reason="background",{POD}}}': 600,
        f'offramp_depth_limited_total{{model="m",{POD}}}': cut_short,
        f'offramp_exits_total{{model="m",exit="1",{POD}}}': answered / 2,
        f'offramp_exits_total{{model="m",exit="2",{POD}}}': answered / 2,
        f'offramp_shed_total{{reason="overload",{POD}}}': refused,
        f'offramp_shed_total{{reason="infeasible",{POD}}}': 600,  # no server more would help
        f'offramp_shed_total{{reason="overload",{OTHER_POD}}}': 600,
    }
    query = f"round({autoscaler_query(POD, 'pod')}, 0.001)"
    sample = {"labels": '{pod="a"}', "value": round(expected, 3)}
    test = {
        "interval": "15s",
        "input_series": [
            {"series": name, "values": f"0+{rate / 4:g}x40"} for name, rate in by_series.items()
        ],
        "promql_expr_test": [{"expr": query, "eval_time": "5m", "exp_samples": [sample]}],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"tests": [test]}))
    said = subprocess.run(
        [executable("promtool"), "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
