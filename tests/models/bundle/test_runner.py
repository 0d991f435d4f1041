"""The runner runs what the manifest promises, and nothing else."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from models.bundle.bundle import Bundle, BundleError
from models.bundle.records import Graph, Tensor
from models.bundle.runner import SegmentRunner

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)


@pytest.fixture
def runner(digits_bundle: Bundle) -> SegmentRunner:
    return runner_of(digits_bundle, digits_bundle.graphs)


def runner_of(bundle: Bundle, graphs: dict[str, bytes]) -> SegmentRunner:
    return SegmentRunner(bundle.manifest.segments, bundle.manifest.exit_heads, graphs)


def test_tensors_are_those_of_the_manifest(runner: SegmentRunner, digits_bundle: Bundle) -> None:
    assert runner.num_exits == 3
    assert [tensor.shape for tensor in runner.inputs] == [(-1, 8, 8, 1)]
    features: list[NDArray[Any]] = [IMAGES]
    for segment in digits_bundle.manifest.segments:
        features = runner.run_segment(segment.exit, features)
        assert [x.shape for x in features] == [(5, *t.shape[1:]) for t in segment.outputs]
        logits = runner.run_head(segment.exit, features)
        assert (logits.shape, logits.dtype.name) == ((5, 10), "float32")


def test_another_execution_provider_gives_what_the_cpu_gives_by_a_clock_of_its_own(
    digits_bundle: Bundle, runner: SegmentRunner
) -> None:
    """onnxruntime's own package has a second one, which leaves these nodes to the CPU."""
    manifest = digits_bundle.manifest
    provider = "AzureExecutionProvider"
    other = SegmentRunner(manifest.segments, manifest.exit_heads, digits_bundle.graphs, provider)
    for said, expected in zip(other.run([IMAGES]), runner.run([IMAGES]), strict=True):
        np.testing.assert_array_equal(said, expected)
    assert (runner.clock, other.clock) == (time.thread_time, time.monotonic)


def test_an_execution_provider_that_is_not_here_is_refused(digits_bundle: Bundle) -> None:
    manifest, graphs = digits_bundle.manifest, digits_bundle.graphs
    with pytest.raises(BundleError, match="CUDAExecutionProvider"):
        SegmentRunner(manifest.segments, manifest.exit_heads, graphs, "CUDAExecutionProvider")


def test_a_row_does_not_depend_on_its_batch(runner: SegmentRunner) -> None:
    for together, *alone in zip(
        runner.run([IMAGES]),
        *(runner.run([IMAGES[i : i + 1]]) for i in range(5)),
        strict=True,
    ):
        assert np.concatenate(alone) == pytest.approx(together, abs=1e-4)


def test_threads_may_share_a_runner(runner: SegmentRunner) -> None:
    expected = runner.run([IMAGES])
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(lambda _: runner.run([IMAGES]), range(40)):
            assert all(np.array_equal(a, b) for a, b in zip(logits, expected, strict=True))


def test_a_graph_with_other_tensors_than_the_manifest_says(digits_bundle: Bundle) -> None:
    graphs = digits_bundle.graphs
    swapped = graphs | {"exit_2.onnx": graphs["exit_3.onnx"]}
    with pytest.raises(BundleError) as refused:
        runner_of(digits_bundle, swapped)
    assert str(refused.value) == (
        "exit_2.onnx has features_3_1: float32 [-1, 56, 2, 2] "
        "where the manifest says features_2_1: float32 [-1, 40, 2, 2]"
    )


def test_a_graph_with_a_fixed_batch_is_not_what_the_manifest_says(digits_bundle: Bundle) -> None:
    model = onnx.load_model_from_string(digits_bundle.graphs["exit_1.onnx"])
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    graphs = digits_bundle.graphs | {"exit_1.onnx": model.SerializeToString()}
    with pytest.raises(BundleError, match=r"^exit_1.onnx has logits: float32 \[1, 10\] where"):
        runner_of(digits_bundle, graphs)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x07" * 50])
def test_bytes_that_are_no_graph(digits_bundle: Bundle, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"^segment_2.onnx cannot be run: "):
        runner_of(digits_bundle, digits_bundle.graphs | {"segment_2.onnx": content})


def test_a_graph_of_another_time(digits_bundle: Bundle) -> None:
    model = onnx.load_model_from_string(digits_bundle.graphs["segment_2.onnx"])
    model.opset_import[0].version = 99
    graphs = digits_bundle.graphs | {"segment_2.onnx": model.SerializeToString()}
    with pytest.raises(BundleError, match=r"^segment_2.onnx cannot be run: .*[Oo]pset 99"):
        runner_of(digits_bundle, graphs)


def adder(location: str) -> ModelProto:
    """A graph that adds ten numbers it wants to read from another file."""
    numbers = TensorProto(
        name="w",
        data_type=TensorProto.FLOAT,
        dims=[10],
        data_location=TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key="location", value=location)],
    )
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 10]) for name in "xy")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [numbers]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "location",
    ["numbers", "./numbers", "../data/numbers", "../../{}/data/numbers", "link", "{}/data/numbers"],
)
def test_a_graph_cannot_read_other_files(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "data"
    here.mkdir()
    (here / "numbers").write_bytes(np.arange(10, dtype=np.float32).tobytes())
    (here / "link").symlink_to(here / "numbers")
    monkeypatch.chdir(here)
    location = location.format(tmp_path.name if location.startswith(".") else tmp_path)
    x, y = (Tensor(name=name, dtype="float32", shape=(-1, 10)) for name in "xy")
    entry = Graph(
        file="segment_1.onnx",
        sha256="0" * 64,
        exit=1,
        inputs=(x,),
        outputs=(y,),
        macs=0,
        parameters=0,
    )
    with pytest.raises(BundleError, match=r"^segment_1.onnx cannot be run: "):
        SegmentRunner([entry], [], {entry.file: adder(location).SerializeToString()})
