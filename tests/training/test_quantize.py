"""Eight bits: smaller graphs that say nearly the same, or no bundle."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from models.bundle.bundle import Bundle, load_bundle, sha256
from models.bundle.runner import SegmentRunner
from training import quantize
from training.data import load_images
from training.evaluate import all_logits
from training.export import export
from training.graphs import ExportError
from training.quantize import check_accuracy


@pytest.fixture(scope="module")
def int8_bundle(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    zoo = tmp_path_factory.mktemp("zoo")
    return load_bundle(export(digits_run, "digits", 2, zoo, int8=True))


def test_every_graph_computes_with_eight_bits(int8_bundle: Bundle, digits_bundle: Bundle) -> None:
    assert int8_bundle.manifest.provenance.precision == "int8"
    assert digits_bundle.manifest.provenance.precision == "float32"
    for graph in (*int8_bundle.manifest.segments, *int8_bundle.manifest.exit_heads):
        content = int8_bundle.graphs[graph.file]
        assert graph.sha256 == sha256(content)
        weights = onnx.load_model_from_string(content).graph.initializer
        large = [tensor for tensor in weights if np.prod(tensor.dims) > 64]
        assert large
        assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}


def test_entries_are_the_same_but_for_their_hash(
    int8_bundle: Bundle, digits_bundle: Bundle
) -> None:
    for mine, theirs in zip(
        int8_bundle.manifest.segments, digits_bundle.manifest.segments, strict=True
    ):
        assert mine.model_copy(update={"sha256": theirs.sha256}) == theirs


def test_logits_stay_close_and_labels_nearly_all_the_same(
    int8_bundle: Bundle, digits_bundle: Bundle
) -> None:
    images = load_images("digits", "test").images.numpy()
    exact, rounded = (
        all_logits(
            SegmentRunner(b.manifest.segments, b.manifest.exit_heads, b.graphs),
            images,
            lambda _: None,
        )
        for b in (digits_bundle, int8_bundle)
    )
    for a, b in zip(exact, rounded, strict=True):
        assert (a != b).any()
        assert np.abs(a - b).mean() < 0.1 * np.abs(a).mean()
        assert (a.argmax(1) == b.argmax(1)).mean() > 0.97


def test_an_exit_that_loses_too_much_is_refused() -> None:
    labels = np.arange(10).repeat(10)
    right = np.eye(10, dtype=np.float32)[labels]
    wrong = right.copy()
    wrong[:3] = np.eye(10, dtype=np.float32)[9]
    check_accuracy([right, right], [right, right], labels)
    with pytest.raises(ExportError, match=r"^int8 costs exit 2 too much: 100.0 % to 97.0 %$"):
        check_accuracy([right, right], [right, wrong], labels)


def test_a_refused_int8_bundle_leaves_nothing(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "MAX_ACCURACY_DROP", -1.0)
    with pytest.raises(ExportError, match=r"^int8 costs exit 1 too much"):
        export(digits_run, "digits", 2, tmp_path, int8=True)
    assert list((tmp_path / "digits").iterdir()) == []
