"""An experiment of the paper, whole but tiny: real runs in processes of their own."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from benchmarks.prometheus import eventually
from models.bundle.errors import UserError
from tests.training.runs import Killed
from training import checkpoint, cli
from training.config import TrainConfig
from training.distributed import World
from training.loop import LOCK
from training.paper import reproduce
from training.paper.reproduce import (
    CHANGES,
    EXPERIMENTS,
    LOG,
    METHODS,
    PLAN,
    RECIPE_CHANGES,
    RESULT,
    Experiment,
    Plan,
    RunResult,
    config_of,
    keep,
)
from training.run import LAST, Run

TINY: dict[str, object] = {
    "net": "msdnet-tiny",
    "epochs": 1,
    "schedule": "linear",
    "batch_size": 32,
    "selection_per_class": 10,
    "flip": False,
    "crop_padding": 1,
}
EXPERIMENT = Experiment(50, ("exit-wise", "semi-supervised"))
ALIKE = {"temperature 1", "temperature 2", "temperature 3", "shipped recipe", "SGD for 20 epochs"}
"""They differ from others in a number, or not at all."""


@pytest.fixture(autouse=True)
def _tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPE_CHANGES, "tiny", TINY)


@pytest.mark.parametrize("recipe", ["paper", "short"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_of_every_experiment_has_a_configuration(name: str, recipe: str) -> None:
    experiment = EXPERIMENTS[name]
    assert set(experiment.methods) <= set(METHODS | CHANGES)
    configs = [config_of(experiment, m, 3, recipe, "cifar") for m in experiment.methods]
    assert len({c.model_dump_json() for c in configs}) == len(experiment.methods)
    for config in configs:
        assert (config.seed, config.data, config.learning_rate) == (3, "cifar", 0.1)
        if experiment.data_name == "caltech101":
            assert config.net == "examples/efficientnet.py:with_exits"
            assert config.selection_per_class == 0
            assert config.batch_size == (64 if config.unlabelled_per_class else 32)
            continue
        assert (config.selection_per_class, config.batch_size) == (50, 64)
        if name in ("recipe", "muon"):
            assert (config.schedule, config.weight_decay) == ("linear", 5e-4)
        else:
            assert (config.schedule, config.weight_decay) == ("step", 1e-4)
            assert [e / config.epochs for e in config.decay_epochs] == [0.5, 0.75]


@pytest.mark.parametrize("method", [m for m in METHODS | CHANGES if m not in ALIKE])
def test_every_method_trains(method: str, tmp_path: Path) -> None:
    config = config_of(EXPERIMENT, method, 0, "tiny", "digits")
    run = Run(config, tmp_path, World(torch.device("cpu")))
    assert bool(len(run.splits.unlabelled)) == method.startswith("semi-supervised")
    loss, accuracy = run.train_epoch()
    assert 0 < loss < 200  # a constant temperature of 4 multiplies imitation by 16
    assert all(0.05 < share < 1 for share in accuracy)


def test_the_first_method_of_the_recipes_changes_nothing_and_every_other_one_thing() -> None:
    experiment = EXPERIMENTS["recipe"]
    plain, *others = (
        config_of(experiment, m, 0, "short", "cifar").model_dump() for m in experiment.methods
    )
    for other in others:
        assert sum(plain[name] != other[name] for name in plain) == 1


def test_an_experiment_runs_once_and_writes_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(EXPERIMENTS, "digits-50", EXPERIMENT)
    for _ in range(2):
        cli.reproduce("digits-50", "digits", "tiny", 1, 2, tmp_path)
    table = (tmp_path / "digits-50-tiny.md").read_text()
    assert table in capsys.readouterr().out
    assert (
        "| exit | M MACs | exit-wise | semi-supervised | semi-supervised over exit-wise |" in table
    )
    assert len(json.loads((tmp_path / "digits-50-tiny.json").read_text())) == 2
    assert (tmp_path / "digits-50-tiny.png").stat().st_size > 10_000
    runs = tmp_path / "tiny" / "cifar100-50"
    assert sorted(d.name for d in runs.iterdir()) == ["exit-wise-seed0", "semi-supervised-seed0"]
    for directory in runs.iterdir():
        log = (directory / LOG).read_text()
        assert log.count("epoch 1: selection accuracy") == 1  # the second call trained nothing
        result = json.loads((directory / RESULT).read_text())
        assert (result["best_epoch"], len(result["exits"])) == (1, 3)
        for e in result["exits"]:
            assert 0.1 < e["top1"] < e["top5"] <= 1
            assert e["macs"] <= e["macs_all_heads"]


def test_without_a_selection_split_the_last_epoch_is_judged_and_each_exit_stands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"selection_per_class": 0, "epochs": 2}
    few = Experiment(5, ("exit-wise", "distillation"), changes=changes, data_name="digits")
    monkeypatch.setitem(EXPERIMENTS, "digits-5", few)
    cli.reproduce("digits-5", "digits", "tiny", 1, 2, tmp_path)
    assert sorted(d.name for d in (tmp_path / "tiny" / "digits-5").iterdir()) == [
        "distillation-seed0",
        "exit-wise-seed0",
    ]
    for result in json.loads((tmp_path / "digits-5-tiny.json").read_text()):
        assert (result["images_per_class"], result["best_epoch"]) == (5, 2)
        assert [e["selection_top1"] for e in result["exits"]] == [None] * 3
    text = (tmp_path / "digits-5-tiny.md").read_text()
    assert "from the others, too. The last epoch is taken. msdnet-tiny" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Top-5 % of each exit alone",
        "## Top-1 % of each exit alone",
    ]


FINISHED = RunResult(
    method="exit-wise",
    seed=0,
    git_commit="unknown",
    net="msdnet-tiny",
    images_per_class=50,
    epochs=1,
    best_epoch=1,
    distillation_temperature=1.0,
    parameters=1,
    exits=[],
)


def test_a_finished_run_counts_for_its_own_plan_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever its data are named from; a published one has its result alone."""
    directory = tmp_path / "tiny" / "cifar100-50" / "exit-wise-seed0"
    directory.mkdir(parents=True)
    data = str(tmp_path / "data")
    config = config_of(EXPERIMENT, "exit-wise", 0, "tiny", data)
    (directory / PLAN).write_text(Plan(method="exit-wise", config=config).model_dump_json())
    keep(FINISHED, directory)
    one = Experiment(50, ("exit-wise",))
    for place in (data, f"{tmp_path}/tiny/../data"):
        assert reproduce.reproduce(one, "tiny", place, 1, 1, tmp_path) == [FINISHED]
    monkeypatch.setitem(RECIPE_CHANGES, "tiny", TINY | {"epochs": 2})
    differing = "epochs was 1, is 2, decay_epochs was .*; name another directory"
    message = f"^{directory} holds the result of another configuration: {differing}"
    with pytest.raises(UserError, match=message):
        reproduce.reproduce(one, "tiny", data, 1, 1, tmp_path)
    (directory / PLAN).unlink()
    assert reproduce.reproduce(one, "tiny", data, 1, 1, tmp_path) == [FINISHED]


def test_a_result_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(path: Path, text: str) -> None:
        path.write_bytes(text[:10].encode())
        raise Killed

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(Killed):
        keep(FINISHED, tmp_path)
    assert not (tmp_path / RESULT).exists()


def test_a_run_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as failed:
        reproduce.reproduce(Experiment(50, ("exit-wise",)), "tiny", "/nowhere", 1, 1, tmp_path)
    directory = tmp_path / "tiny" / "cifar100-50" / "exit-wise-seed0"
    assert str(failed.value) == (
        f"{directory} stopped: see {directory / LOG}; the same command goes on"
    )
    assert "cannot load the train split of '/nowhere'" in (directory / LOG).read_text()


def test_a_stopped_run_leaves_a_checkpoint_and_says_so(tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"data": "digits", **TINY, "epochs": 1000})
    (tmp_path / PLAN).write_text(Plan(method="distillation", config=config).model_dump_json())
    command = [sys.executable, "-m", "training.paper.reproduce", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.startswith("epoch 1: selection accuracy") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].endswith(f"the same command goes on from {tmp_path / LAST}")
    assert (tmp_path / LAST).is_file()
    assert not (tmp_path / RESULT).exists()


STOPPABLE = """
import signal
import sys
from pathlib import Path
from tests.training.paper.test_reproduce import EXPERIMENT, TINY
from training import cli
from training.paper.reproduce import EXPERIMENTS, RECIPE_CHANGES

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have ignored it
RECIPE_CHANGES["endless"] = TINY | {"epochs": 10_000}
EXPERIMENTS["digits-50"] = EXPERIMENT
cli.reproduce("digits-50", "digits", "endless", 1, 2, Path(sys.argv[1]))
"""


def has_trained(log: Path) -> bool:
    return log.is_file() and "epoch 1:" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_an_experiment_stops_its_runs(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STOPPABLE, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "endless" / "cifar100-50"
    logs = [runs / f"{method}-seed0" / LOG for method in EXPERIMENT.methods]
    try:
        for log in logs:
            eventually(partial(has_trained, log), expected=True, limit_s=120)
    finally:
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert errors.splitlines()[-1].endswith("Interrupted: stopped; the same command goes on")
    for log in logs:
        assert "the same command goes on from" in log.read_text()
        with FileLock(log.with_name(LOCK), blocking=False):
            pass  # the process that trained has ended
        assert checkpoint.load(log.with_name(LAST)).epoch >= 1


@pytest.mark.parametrize(
    ("name", "recipe", "complaint"),
    [
        ("imagenet", "paper", "no experiment 'imagenet'; there are cifar100-150, "),
        ("teachers", "long", "no recipe 'long'; there are paper, short"),
        ("overhead", "long", "no recipe 'long'; there are paper, short"),
    ],
)
def test_an_unknown_name_is_refused(name: str, recipe: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        cli.reproduce(name, "digits", recipe, 1, 1, tmp_path)
    assert str(refused.value).startswith(complaint)
    assert list(tmp_path.iterdir()) == []
