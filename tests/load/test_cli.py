"""`offramp load` against a real server."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loading import encode
from benchmarks.process import ROOT, free_port
from tests.conftest import Serve
from training.data import load_images

Row = dict[str, str]


@pytest.fixture(scope="module")
def url(serve: Serve, digits_zoo: Path) -> Iterator[str]:
    with serve(digits_zoo, profile_s=0.2) as server:
        yield server.url


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of class directories."""
    directory = tmp_path_factory.mktemp("digits")
    test = load_images("digits", "test")
    for row in range(40):
        place = directory / str(test.labels[row].item())
        place.mkdir(exist_ok=True)
        (place / f"{row}.png").write_bytes(encode(np.asarray(test.images[row])))
    return directory


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "offramp", "load", *arguments]


def load(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def rows(printed: str) -> list[Row]:
    """The table's rows, those of medians too."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    headings, _, *found = [cells for cells in lines if cells]
    return [dict(zip(headings, cells, strict=True)) for cells in found if cells[0][0].isdigit()]


def test_a_table_and_a_figure_of_two_servers_in_turn(
    url: str, digits: Path, tmp_path: Path
) -> None:
    steps = ["--rate", "40", "--seconds", "0.5", "--rounds", "2"]
    figure = tmp_path / "load.png"
    shallow = f"{url}/v1/classify?max_exit=1"
    options = ["--data", str(digits), "--latency-budget-ms", "5000", "--plot", str(figure)]
    printed = load(url, shallow, *steps, *options)
    found = rows(printed)
    assert [row["server"] for row in found] == list("ABAB" + "AB")  # medians come last
    for row in found:
        assert row["failed %"] == "0.00"
        assert float(row["offered/s"]) == float(row["rate"])
        assert 0 < float(row["right in time/s"]) <= float(row["good/s"])
        assert float(row["top-1 %"]) > 50
    assert {row["mean exit"] for row in found if row["server"] == "B"} == {"1.00"}
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert re.search(r"99 % of the requests of every run left within [0-9.]+ ms", printed)


def test_without_labels_and_budget_there_is_no_accuracy(url: str) -> None:
    rates = ["--rate", "20", "--rate", "60", "--seconds", "0.5"]
    found = rows(load(url, "--data", "deploy/load/images", *rates))
    assert [row["rate"] for row in found] == ["20", "60"]
    for row in found:
        assert (row["right in time/s"], row["top-1 %"], row["late %"]) == ("-", "-", "0.00")


def test_ctrl_c_prints_what_there_is(url: str, digits: Path) -> None:
    options = ["--data", str(digits), "--rate", "50", "--seconds", "60"]
    with subprocess.Popen(
        command(url, *options), cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        printed = "".join(process.stdout.readline() for _ in range(4))
        time.sleep(3)  # the run itself begins after a second
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    (row,) = rows(printed + rest)
    assert 0 < float(row["good/s"]) <= float(row["offered/s"])
    assert row["failed %"] == "0.00"
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("error: stopped")


def test_mistakes_get_one_sentence(url: str, digits: Path) -> None:
    options = ["--data", str(digits), "--rate", "5"]
    said = load(f"{url}?model=letters", *options, code=1)
    assert said.endswith("answers 404: 'letters' is none of digits\n")
    assert "does not answer" in load(f"http://127.0.0.1:{free_port()}", *options, code=1)
    assert load("127.0.0.1:8000", *options, code=1).endswith("is not an http:// URL\n")
