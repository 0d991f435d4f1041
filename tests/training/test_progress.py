"""A line a minute where there is no terminal."""

import pytest

from training import progress
from training.progress import Progress, duration


def test_a_line_says_count_rate_and_time_left() -> None:
    bar = Progress(1000, "epoch 2/3", "step", initial=100)
    bar.update(50)
    bar.describe("loss 1.5")
    assert bar.line(25.0) == ("epoch 2/3: 150 of 1000 steps, 2 a second, 0:07:05 left, loss 1.5")
    assert duration(7384) == "2:03:04"


def test_lines_come_once_an_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: clock[0])
    with Progress(10, "testing", "row") as bar, Progress(10, "x", "y", is_shown=False) as other:
        for clock[0] in (10.0, 59.0, 61.0, 70.0, 121.5):
            bar.update()
            other.update()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" rows")[0] for line in lines] == [
        "testing: 3 of 10",
        "testing: 5 of 10",
    ]
