"""Few labels, on digits and a network made on the spot."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.few_labels import kept_labels, main
from tests.training.attaching.networks import residual
from training.losses import UNLABELLED


def test_so_many_of_each_class_keep_their_label() -> None:
    labels = np.repeat(np.arange(3), (10, 4, 6))
    kept = kept_labels(labels, 5, seed=0)
    assert np.bincount(kept[kept != UNLABELLED]).tolist() == [5, 4, 5]
    assert (kept[kept != UNLABELLED] == labels[kept != UNLABELLED]).all()
    assert (kept_labels(labels, None, seed=0) == labels).all()
    assert (kept_labels(labels, 5, seed=1) != kept).any()


def test_every_way_of_learning_is_measured_at_every_exit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = residual(tmp_path / "net.onnx")
    cuts = [node.output[0] for node in onnx.load(model).graph.node if node.op_type == "Relu"]

    def run() -> str:
        main(model, "digits", [cuts[2], cuts[4]], seeds=1, steps=40, keep=tmp_path)
        return capsys.readouterr().out

    said = run()
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| 5 | ")]
    assert [row[1] for row in rows[:4]] == [
        "exit-wise",
        "distillation",
        "semi-supervised",
        "no labels",
    ]
    assert all(len(row) == 5 for row in rows)
    (exit_wise, *_), last = ([row[k].split()[0] for row in rows[:4]] for k in (2, 4))
    assert float(exit_wise) > 15  # of ten digits
    assert len(set(last)) == 1  # the last exit is the same for all

    results = [path for path in tmp_path.rglob("*.npy") if np.load(path).shape == (2, 3)]
    assert len(results) == 15  # all photos have labels: nothing is left to be semi-supervised with
    results[0].unlink()
    assert run() == said  # as it goes on after a stop
