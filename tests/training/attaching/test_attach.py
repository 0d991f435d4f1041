"""Networks of every family get exits, and their last exit stays what they were."""

import errno
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from torch import Tensor
from typer.testing import CliRunner

from models.bundle.bundle import load_bundle
from models.bundle.confidence import Floats, calibrated_probabilities
from models.bundle.errors import UserError
from models.bundle.runner import SegmentRunner
from offramp import app
from tests.training.attaching.networks import (
    CLASSES,
    NETWORKS,
    SIZE,
    WIDTH,
    Net,
    depthwise,
    residual,
)
from training.attaching.attach import attach, labels_of
from training.attaching.errors import AttachError
from training.attaching.features import Features, opened
from training.attaching.heads import LOSSES, Recipe, new_heads, train_heads
from training.attaching.order import Order
from training.attaching.passes import CHUNK, Outputs, passes
from training.attaching.read import Options
from training.data import load_images
from training.data.rows import Index
from training.evaluation import report
from training.exporting.quantize import Graphs

QUICK = Recipe(epochs=1, min_steps=60)
STOPPED_AFTER = 20 * CHUNK
WEIGHTED = {"Conv", "Gemm", "MatMul"}
IMAGES = load_images("digits", "test").images.numpy()[:40]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than attaching; test_report.py shows what is drawn."""
    monkeypatch.setattr(report, "plot", lambda *_: None)


class Attached(NamedTuple):
    model: Path
    place: Path
    bundle: Path


@pytest.fixture(scope="module")
def attached(tmp_path_factory: pytest.TempPathFactory) -> Attached:
    place = tmp_path_factory.mktemp("attached")
    model = residual(place / "net.onnx")
    return Attached(model, place, attach(order(model, place)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features and heads of networks that several tests attach exits to."""
    return tmp_path_factory.mktemp("cache")


def order(model: Path, place: Path, **changes: object) -> Order:
    given = {
        "model": model,
        "data": "digits",
        "name": "tiny",
        "version": 1,
        "zoo": place / "zoo",
        "cache": place / "cache",
        "num_exits": 3,
        "recipe": QUICK,
        "max_disagreement": 0.9,
    }
    return Order(**(given | changes))  # type: ignore[arg-type]


def last_exit(path: Path) -> Floats:
    bundle = load_bundle(path)
    manifest = bundle.manifest
    assert manifest.num_exits == 3
    return SegmentRunner(manifest.segments, manifest.exit_heads, bundle.graphs).run([IMAGES])[-1]


def asked(path: Path) -> NDArray[np.floating]:
    """What onnxruntime makes of the file as it is: images in [-1, 1], as by default."""
    session = ort.InferenceSession(path)
    (given,) = session.get_inputs()
    pixels = (IMAGES / 255 - 0.5) / 0.5
    if given.shape[1] == 1:
        pixels = pixels.transpose(0, 3, 1, 2)
    pixels = pixels.astype(np.float16 if "float16" in given.type else np.float32)
    step = 1 if given.shape[0] == 1 else len(pixels)
    outputs = [
        session.run(None, {given.name: pixels[start : start + step]})[0]
        for start in range(0, len(pixels), step)
    ]
    return np.concatenate(outputs).astype(np.float64)


@pytest.mark.parametrize("family", sorted(NETWORKS))
def test_the_last_exit_is_the_network(family: str, tmp_path: Path, cache: Path) -> None:
    model = NETWORKS[family](tmp_path / "net.onnx")
    logits = last_exit(attach(order(model, tmp_path, cache=cache)))
    expected = asked(model)
    gives_probabilities = family in ("softmax", "channels_last")
    found = calibrated_probabilities(logits, 1.0) if gives_probabilities else logits
    tolerance = 0.02 * np.abs(expected).max() if family == "half" else 1e-4
    assert found == pytest.approx(expected, abs=tolerance)


def test_exits_imitate_without_labels_and_the_report_says_so(tmp_path: Path) -> None:
    model = residual(tmp_path / "net.onnx")
    path = attach(order(model, tmp_path, uses_labels=False, recipe=Recipe(10, min_steps=400)))
    bundle = load_bundle(path)
    calibration = bundle.calibration
    assert calibration.judged_by == "last_exit"
    assert calibration.exits[-1].accuracy == 1
    assert calibration.exits[-1].calibration_temperature == 1
    assert calibration.exits[1].accuracy > 0.6  # of ten answers; chance is far below
    for point in calibration.operating_points.values():
        assert point.certificate is not None
        assert point.certificate.max_disagreement == point.certificate.max_accuracy_drop
    written = (path / "report.md").read_text()
    assert "right where it equals the last exit's: there are no labels" in written
    assert bundle.manifest.provenance.config["labels_seen"] is False
    assert bundle.manifest.labels == tuple("0123456789")


def test_the_distillation_temperature_of_two_classes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap of 8 between the logits has confidence 3/4, the least to anneal to, at 8 / log 3."""
    seen: list[float] = []
    loss = LOSSES["distillation"]

    def noted(logits: Sequence[Tensor], labels: Tensor, temperature: Tensor) -> Tensor:
        seen.append(temperature.item())
        return loss(logits, labels, temperature)

    monkeypatch.setitem(LOSSES, "distillation", noted)
    rows = np.arange(32)
    pooled = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    logits = np.where(rows[:, None] % 2 == [0, 1], 8, 0).astype(np.float32)
    features = Features(pooled, logits, (3,), rows, rows)
    recipe = Recipe(epochs=1, min_steps=100)
    train_heads(new_heads(features, recipe), features, None, recipe)
    assert 8 / np.log(3) <= seen[-1] < 1.05 * 8 / np.log(3)


def test_with_labels_both_promises_are_certified(attached: Attached) -> None:
    calibration = load_bundle(attached.bundle).calibration
    assert calibration.judged_by == "labels"
    point = calibration.operating_points["balanced"]
    assert point.certificate is not None
    assert point.certificate.max_disagreement is not None


def test_a_second_run_computes_no_features_and_gives_the_same_exits(
    attached: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_bundle(attached.bundle)
    monkeypatch.setattr("training.attaching.heads.train_heads", None)  # would fail if called
    again = load_bundle(attach(order(attached.model, attached.place, version=2)))
    assert again.manifest.segments[-1] == first.manifest.segments[-1]
    assert set(again.graphs.values()) & set(first.graphs.values())


def test_eight_bits_are_kept_only_where_the_report_says_so(tmp_path: Path, cache: Path) -> None:
    model = depthwise(tmp_path / "net.onnx")
    path = attach(order(model, tmp_path, cache=cache, int8=True))
    bundle = load_bundle(path)
    report = (path / "report.md").read_text()
    found = re.search(
        r"(?:8 bits take [\d.]+ ms to the last exit where float32 takes [\d.]+ ms, and cost the "
        r"exits up to -?[\d.]+ points of agreement .*|no graph is faster here in 8 bits): "
        r"(8 bits are|float32 is) kept",
        report,
    )
    assert found
    precision = bundle.manifest.provenance.precision
    assert precision == {"8 bits are": "int8", "float32 is": "float32"}[found[1]]
    in_8_bits = any("QuantizeLinear" in operators(graph) for graph in bundle.graphs.values())
    assert in_8_bits == (precision == "int8")


def test_float32_is_kept_where_no_graph_is_faster_in_8_bits(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def those_with_weights(graphs: Graphs, *_: object) -> set[str]:
        return {file for file, graph in graphs[2].items() if WEIGHTED & operators(graph)}

    monkeypatch.setattr("training.attaching.eight_bits.slower_graphs", those_with_weights)
    model = depthwise(tmp_path / "net.onnx")
    path = attach(order(model, tmp_path, cache=cache, int8=True))
    bundle = load_bundle(path)
    assert bundle.manifest.provenance.precision == "float32"
    assert "no graph is faster here in 8 bits: float32 is kept" in (path / "report.md").read_text()


def operators(graph: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(graph).graph.node}


def test_what_ctrl_c_stops_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = residual(tmp_path / "net.onnx")
    command = ["attach", str(model), "--data", "digits", "--name", "tiny", "--exits", "3"]
    command += ["--zoo", str(tmp_path / "zoo"), "--cache", str(tmp_path / "cache")]
    computed: list[int] = []

    def counted(*given: object) -> Iterator[tuple[Index, Outputs]]:
        for rows, outputs in passes(*given):  # type: ignore[arg-type]
            computed.extend(rows.tolist())
            yield rows, outputs
            if len(computed) == STOPPED_AFTER:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("training.attaching.features.passes", counted)
    with pytest.raises(UserError, match="stopped; the same command goes on"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert len(computed) == STOPPED_AFTER
    assert not (tmp_path / "zoo").exists()
    last_exit(attach(order(model, tmp_path)))
    num_views, num_rows = 2, len(load_images("digits", "train").labels)
    assert np.bincount(computed).tolist() == [num_views] * num_rows


def test_two_at_once_with_one_cache_compute_each_feature_and_head_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = residual(tmp_path / "net.onnx")
    num_computed = Counter[int]()
    training = Mock(wraps=train_heads)
    monkeypatch.setattr("training.attaching.heads.train_heads", training)

    def counted(*given: object) -> Iterator[tuple[Index, Outputs]]:
        for rows, outputs in passes(*given):  # type: ignore[arg-type]
            num_computed.update(rows.tolist())
            yield rows, outputs

    monkeypatch.setattr("training.attaching.features.passes", counted)
    with ThreadPoolExecutor(2) as pool:
        orders = [order(model, tmp_path, version=version) for version in (1, 2)]
        first, second = map(load_bundle, pool.map(attach, orders))
    num_views, num_rows = 2, len(load_images("digits", "train").labels)
    assert num_computed == dict.fromkeys(range(num_rows), num_views)
    assert training.call_count == 1
    assert first.manifest.segments[-1] == second.manifest.segments[-1]
    assert "waiting for another process that fills " in capsys.readouterr().out


def test_named_tensors_are_where_it_is_cut(tmp_path: Path) -> None:
    model = residual(tmp_path / "net.onnx")
    names = [n.output[0] for n in onnx.load(model).graph.node if n.op_type == "Relu"]
    path = attach(order(model, tmp_path, num_exits=None, tensors=(names[2], names[4])))
    segments = load_bundle(path).manifest.segments
    assert [segment.outputs[0].name for segment in segments[:2]] == [names[2], names[4]]
    with pytest.raises(AttachError, match="cannot be cut at 'nowhere'"):
        attach(order(model, tmp_path, version=2, tensors=("nowhere",)))


def test_exits_that_do_not_pay_are_said_not_to(tmp_path: Path, cache: Path) -> None:
    """A network of microseconds: a head takes as long as what it saves."""
    model = residual(tmp_path / "net.onnx")
    with pytest.raises(AttachError, match=r"exits would save \d+ % .*: not worth it"):
        attach(order(model, tmp_path, cache=cache, num_exits=None))
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "../x"}, "is no model name"),
        ({"options": Options(size=9)}, "takes 8 x 8 pixels, not 9"),
        ({"options": Options(mean=(0.1, 0.2))}, "--mean has 2 numbers; images have 1 channels"),
        ({"options": Options(std=(0.0,))}, "--std must be above 0"),
        ({"options": Options(max_tokens=9)}, "takes images: leave out --max-tokens"),
        ({"num_exits": 40}, "--exits 40 is not possible: this network takes 2 to"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    changes: dict[str, object], complaint: str, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        attach(order(residual(tmp_path / "net.onnx"), tmp_path, cache=cache, **changes))
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("classes", "complaint"), [(1, "gives one score; exits need"), (3, "all from 0 to 1")]
)
def test_scores_of_a_sigmoid_are_refused_before_any_work(
    classes: int, complaint: str, tmp_path: Path
) -> None:
    net = Net()
    x = net.conv(net.conv("x", 1, WIDTH), WIDTH, WIDTH)
    pooled = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    output = net.add("Sigmoid", [net.add("Gemm", [pooled, net.weight(WIDTH, classes)])])
    model = net.save(tmp_path / "net.onnx", output, ["batch", 1, SIZE, SIZE], classes=classes)
    with pytest.raises(AttachError, match=complaint):
        attach(order(model, tmp_path))
    assert not (tmp_path / "cache").exists()


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("abc"))
    with pytest.raises(AttachError, match=f"has {CLASSES} classes and needs as many"):
        attach(order(residual(tmp_path / "net.onnx"), tmp_path, labels=labels))


def test_labels_that_are_the_same_get_their_index(tmp_path: Path) -> None:
    """ImageNet has two cranes and two maillots."""
    (tmp_path / "labels.txt").write_text("crane\ntabby\ncrane\n")
    told = order(tmp_path / "net.onnx", tmp_path, labels=tmp_path / "labels.txt")
    assert labels_of(told, Mock(), Mock(), 3) == ("crane (0)", "tabby", "crane (2)")


def test_a_cache_that_the_disk_cannot_hold_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a sparse file that cannot be written would end the process."""
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("os.posix_fallocate", Mock(side_effect=full))
    with pytest.raises(OSError, match="No space"):
        opened(tmp_path / "pooled.npy", (4, 4))
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    opened(tmp_path / "pooled.npy", (400, 400))
    assert (tmp_path / "pooled.npy").stat().st_blocks * 512 >= 4 * 400 * 400


def test_the_input_has_the_size_of_the_file(attached: Attached) -> None:
    expected = load_bundle(attached.bundle).manifest.image_input
    assert (expected.height, expected.width, expected.channels) == (SIZE, SIZE, 1)
