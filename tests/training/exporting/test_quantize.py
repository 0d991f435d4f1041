"""Eight bits: smaller graphs that say nearly the same, or no bundle."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from models.bundle.bundle import Bundle, load_bundle, sha256
from models.bundle.runner import SegmentRunner
from tests.training.runs import exported
from training.data import load_images
from training.evaluation.evaluate import all_logits
from training.exporting import export as exporting
from training.exporting import quantize
from training.exporting.export import export
from training.exporting.graphs import ExportError
from training.exporting.quantize import RANGE_ROWS, check_accuracy, quantized, range_rows
from training.run_data import SPLITS


@pytest.fixture(scope="module", autouse=True)
def _exported(digits_bundle: Bundle) -> Iterator[None]:
    """The run's graphs need not be made again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "export_graphs", lambda *_: exported(digits_bundle))
        yield


@pytest.fixture(scope="module")
def int8_bundle(
    digits_run: Path, _exported: None, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
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


def test_logits_are_not_rounded_to_8_bits(int8_bundle: Bundle) -> None:
    """In 8 bits the two largest of a row's logits would often be equal."""
    for head in int8_bundle.manifest.exit_heads:
        graph = onnx.load_model_from_string(int8_bundle.graphs[head.file]).graph
        (last,) = (node for node in graph.node if graph.output[0].name in node.output)
        assert last.op_type == "Gemm"
    images = load_images("digits", "test").images.numpy()
    manifest = int8_bundle.manifest
    runner = SegmentRunner(manifest.segments, manifest.exit_heads, int8_bundle.graphs)
    for logits in all_logits(runner, images, lambda _: None):
        assert len(np.unique(logits)) > 0.9 * logits.size


def test_entries_say_what_the_graphs_have_become(
    int8_bundle: Bundle, digits_bundle: Bundle
) -> None:
    """Costs are the network's own; features are 8-bit numbers, which every reader takes."""
    mine, theirs = int8_bundle.manifest, digits_bundle.manifest
    for one, other in zip(
        (*mine.segments, *mine.exit_heads), (*theirs.segments, *theirs.exit_heads), strict=True
    ):
        changed = {"sha256": other.sha256, "inputs": other.inputs, "outputs": other.outputs}
        assert one.model_copy(update=changed) == other
    for segment in mine.segments:
        assert {tensor.dtype for tensor in (*segment.inputs, *segment.outputs)} == {"uint8"}
    for head in mine.exit_heads:
        assert {tensor.dtype for tensor in head.inputs} == {"uint8"}
        assert {tensor.dtype for tensor in head.outputs} == {"float32"}


def test_readers_take_the_makers_scale(int8_bundle: Bundle) -> None:
    """What one graph hands to another in 8 bits means the same number to both."""
    segments = int8_bundle.manifest.segments
    readers = (*segments[1:], int8_bundle.manifest.exit_heads[-1])
    num_checked = 0
    for maker, reader in zip(segments, readers, strict=True):
        made, read = (
            onnx.load_model_from_string(int8_bundle.graphs[graph.file]) for graph in (maker, reader)
        )
        for name in {tensor.name for tensor in reader.inputs}:
            (end,) = (node for node in made.graph.node if name in node.output)
            for start in (node for node in read.graph.node if name in node.input):
                assert (end.op_type, start.op_type) == ("QuantizeLinear", "DequantizeLinear")
                assert values(made, end.input[1:]) == values(read, start.input[1:])
                num_checked += 1
    assert num_checked >= len(segments)


def values(model: onnx.ModelProto, names: Sequence[str]) -> list[float]:
    weights = {weight.name: weight for weight in model.graph.initializer}
    return [float(numpy_helper.to_array(weights[name])) for name in names]


def test_features_that_one_side_needs_as_floats_stay_floats(digits_bundle: Bundle) -> None:
    """A reader that adds to its features before it convolves them has no 8-bit numbers to read."""
    images = load_images("digits", "test").images.numpy()[:64]
    manifest, content = digits_bundle.manifest, dict(digits_bundle.graphs)
    second = manifest.segments[1]
    model = onnx.load_model_from_string(content[second.file])
    name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["sum" if given == name else given for given in node.input]
    model.graph.node.insert(0, helper.make_node("Add", [name, name], ["sum"]))
    content[second.file] = model.SerializeToString()
    segments, heads, made = quantized(manifest.segments, manifest.exit_heads, content, images)
    kinds = {tensor.name: tensor.dtype for tensor in segments[1].inputs}
    assert kinds.pop(name) == "float32"
    assert kinds == dict.fromkeys(kinds, "uint8")
    SegmentRunner(segments, heads, made).run_segment(
        2, SegmentRunner(segments, heads, made).run_segment(1, [images])
    )


def test_clips_end_in_the_range_and_named_graphs_stay_float(digits_bundle: Bundle) -> None:
    """Networks for phones end convolutions in Clip(0, 6)."""
    manifest, content = digits_bundle.manifest, dict(digits_bundle.graphs)
    for segment in manifest.segments:
        model = onnx.load_model_from_string(content[segment.file])
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(value, np.float32), name)
            for name, value in (("least", 0), ("most", 6))
        )
        for node in model.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Clip"
                node.input.extend(("least", "most"))
        content[segment.file] = model.SerializeToString()
    images = load_images("digits", "test").images.numpy()[:64]
    first, second = (segment.file for segment in manifest.segments[:2])
    _, _, made = quantized(
        manifest.segments, manifest.exit_heads, content, images, in_float=(second,)
    )
    ops = {
        file: {node.op_type for node in onnx.load_model_from_string(made[file]).graph.node}
        for file in (first, second)
    }
    assert "QuantizeLinear" in ops[first]
    assert "Clip" not in ops[first]
    assert "Clip" in ops[second]
    assert "QuantizeLinear" not in ops[second]


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


def test_ranges_are_of_images_learned_from_of_every_class(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are often sorted by class, and rows that calibrate certify the graphs."""
    train, splits = load_images("digits", "train"), np.load(digits_run / SPLITS)
    labels = train.labels.numpy()
    by_class = splits["train"][np.argsort(labels[splits["train"]])]
    assert set(labels[range_rows(by_class)].tolist()) == set(range(10))
    assert len(set(range_rows(by_class).tolist())) == RANGE_ROWS
    assert range_rows(by_class[:7]).tolist() == by_class[:7].tolist()
    seen: list[NDArray[np.uint8]] = []

    def as_they_are(*graphs: object, images: NDArray[np.uint8]) -> tuple[object, ...]:
        seen.append(images)
        return graphs

    monkeypatch.setattr(
        exporting, "quantized", lambda *given: as_they_are(*given[:3], images=given[3])
    )
    export(digits_run, "digits", 3, tmp_path, int8=True)
    assert np.array_equal(seen[0], train.images[range_rows(splits["train"])])


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
