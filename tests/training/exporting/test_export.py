"""A bundle is written whole, once, and only if it does what the network does."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.bundle.bundle import Bundle
from models.bundle.calibration import CALIBRATION
from models.bundle.cost_profile import COST
from models.bundle.manifest import MANIFEST
from tests.training.runs import exported
from training import checkpoint, cli
from training.checkpoint import CheckpointError
from training.data import load_images
from training.exporting import export as exporting
from training.exporting.calibrate import ACCURACY_DROPS
from training.exporting.export import export, provenance, without_directories
from training.exporting.graphs import ExportError
from training.run import BEST, LAST
from training.run_data import SPLITS


def with_another_bias(head: bytes) -> bytes:
    """The same head with 0.01 more in its first logit."""
    model = onnx.load_model_from_string(head)
    (bias,) = [t for t in model.graph.initializer if list(t.dims) == [10]]
    values = numpy_helper.to_array(bias) + np.float32(0.01) * np.eye(1, 10, dtype=np.float32)[0]
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    changed: bytes = model.SerializeToString()
    return changed


def test_a_bundle_holds_the_files_of_the_contract(digits_bundle: Bundle) -> None:
    path = digits_bundle.path
    graphs = {f"{kind}_{k}.onnx" for kind in ("segment", "exit") for k in (1, 2, 3)}
    records = {MANIFEST, CALIBRATION, COST, "report.json", "report.md", "curves.png"}
    assert {file.name for file in path.iterdir()} == graphs | records
    assert path.stat().st_mode & 0o777 == 0o755
    assert not [entry for entry in path.parent.iterdir() if entry.name.startswith(".")]


def test_a_bundle_says_where_it_comes_from(digits_bundle: Bundle, digits_run: Path) -> None:
    said, best = digits_bundle.manifest.provenance, checkpoint.load(digits_run / BEST)
    assert (said.data, said.seed, said.epochs) == ("digits", 0, best.epoch)
    assert (said.config["net"], said.config["epochs"]) == ("msdnet-tiny", 12)
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", said.git_commit)
    assert set(said.packages) == {"torch", "onnx", "onnxruntime", "numpy"}


def test_an_export_says_that_a_run_is_not_finished(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    said = []
    for version, epoch in ((1, 12), (2, 7)):
        checkpoint.save(replace(checkpoint.load(run / LAST), epoch=epoch), run / LAST)
        export(run, "digits", version, tmp_path / "zoo")
        said.append(capsys.readouterr().out)
    assert "epochs" not in said[0]
    assert f"{run} has trained for 7 of its 12 epochs; this is the best so far" in said[1]


def test_a_bundle_keeps_no_paths_of_the_host_that_trained_it(digits_run: Path) -> None:
    saved = checkpoint.load(digits_run / BEST)
    paths = {
        "data": "/home/me/digits",
        "net": "/home/me/nets.py:wide",
        "start_from": "/home/me/runs/first",
        "teacher": "/home/me/runs/teacher",
        "tokenizer": "/home/me/tokenizer.json",
    }
    saved = replace(saved, config=saved.config.model_copy(update=paths))
    config = provenance(saved, "float32").config
    kept = [config[key] for key in paths]
    assert kept == ["digits", "nets.py:wide", "first", "teacher", "tokenizer.json"]
    assert config.keys() == saved.config.model_dump().keys()


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("digits", "digits"),
        ("/home/me/digits/", "digits"),
        ("msdnet-7", "msdnet-7"),
        ("transformers:/home/me/bert@1,2", "transformers:bert@1,2"),
        ("../nets.py:wide", "nets.py:wide"),
    ],
)
def test_a_network_keeps_its_kind_and_function(path: str, kept: str) -> None:
    assert without_directories(path) == kept


def test_calibration_comes_from_the_calibration_split(
    digits_bundle: Bundle, digits_run: Path
) -> None:
    rows = np.load(digits_run / SPLITS)["calibration"]
    assert digits_bundle.calibration.num_rows == len(rows) == 250


def test_operating_points_trade_accuracy_for_macs(digits_bundle: Bundle) -> None:
    points = digits_bundle.calibration.operating_points
    accurate = points["accurate"].accuracy
    assert accurate > 0.9
    for name, drop in ACCURACY_DROPS.items():
        assert points[name].accuracy >= accurate - drop - 0.005
        assert points[name].mean_macs <= points["accurate"].mean_macs


def test_an_existing_version_is_never_overwritten(digits_bundle: Bundle, digits_run: Path) -> None:
    path = digits_bundle.path
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(ExportError, match="exists; bundles are immutable, choose another version"):
        export(digits_run, "digits", 1, path.parents[1])
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize("name", ["", "..", "../digits", "a/b", ".hidden", "a b", "a\n", "x" * 101])
def test_a_name_that_is_no_models_is_refused_before_any_work(
    name: str, digits_run: Path, tmp_path: Path
) -> None:
    zoo = tmp_path / "zoo"
    with pytest.raises(ExportError, match=r"is no model name"):
        export(digits_run, name, 1, zoo)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_its_splits_is_refused(digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / BEST).write_bytes((digits_run / BEST).read_bytes())
    with pytest.raises(CheckpointError, match=r"has no splits.npz and data.json"):
        export(tmp_path, "digits", 1, tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_equal_graphs_make_an_equal_bundle(
    digits_bundle: Bundle, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for cost.json, which is measured."""
    monkeypatch.setattr(exporting, "export_graphs", lambda *_: exported(digits_bundle))
    path = export(digits_run, "digits", 1, tmp_path)
    for name in (CALIBRATION, "report.json", "report.md", *digits_bundle.graphs):
        assert (path / name).read_bytes() == (digits_bundle.path / name).read_bytes()


@pytest.mark.parametrize("exit", [1, 3])
def test_graphs_that_differ_from_torch_make_no_bundle(
    exit: int,
    digits_bundle: Bundle,
    digits_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    segments, heads, content = exported(digits_bundle)
    content[heads[exit - 1].file] = with_another_bias(content[heads[exit - 1].file])
    monkeypatch.setattr(exporting, "export_graphs", lambda *_: (segments, heads, content))
    with pytest.raises(ExportError, match=rf"^exit {exit} differs from torch by 0.01 in a logit"):
        export(digits_run, "digits", 2, tmp_path)
    assert list((tmp_path / "digits").iterdir()) == []


def test_evaluating_a_bundle_again_gives_its_report(
    digits_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.evaluate(digits_bundle.path, "digits", tmp_path)
    for name in ("report.json", "report.md"):
        assert (tmp_path / name).read_bytes() == (digits_bundle.path / name).read_bytes()
    assert capsys.readouterr().out.strip() == (tmp_path / "report.md").read_text().strip()


def test_the_report_is_of_the_test_split(digits_bundle: Bundle) -> None:
    text = (digits_bundle.path / "report.md").read_text()
    assert text.startswith("# digits version 1 on digits, test split\n")
    assert f"{len(load_images('digits', 'test'))} rows" in text
