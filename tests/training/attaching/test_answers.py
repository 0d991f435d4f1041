"""What the network itself says is what its pieces say, and is of use as logits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.training.attaching.networks import CLASSES, SIZE, WIDTH, Net, residual_body
from training.attaching.answers import check_last_exit, own_scores
from training.attaching.cut import classifier, places
from training.attaching.errors import AttachError
from training.attaching.program import program
from training.attaching.read import Network, Options, read
from training.attaching.trial import runner_of, uncut
from training.data import load_images

ROWS = load_images("digits", "test").images.numpy()[:32]
DYNAMIC: list[int | str] = ["batch", 1, SIZE, SIZE]


def refused(path: Path) -> str:
    with pytest.raises(AttachError) as error:
        own_scores(read(path, Options()), [ROWS])
    return str(error.value)


def whole(path: Path) -> tuple[Network, NDArray[np.float32]]:
    """The network as it is read, and what its pieces say of the rows."""
    network = read(path, Options())
    cut_up = program(network)
    return network, runner_of(*uncut(cut_up, classifier(places(cut_up), cut_up))).run([ROWS])[-1]


@pytest.mark.parametrize("batch", [1, 10, 64])
def test_a_fixed_batch_of_any_size_answers_every_row(batch: int, tmp_path: Path) -> None:
    net = Net()
    x = net.conv(net.conv("x", 1, WIDTH), WIDTH, WIDTH)
    flat = net.add("Reshape", [x, net.constant(np.array([batch, WIDTH * SIZE * SIZE]))])
    output = net.add("Gemm", [flat, net.weight(WIDTH * SIZE * SIZE, CLASSES)])
    path = net.save(tmp_path / "n.onnx", output, [batch, 1, SIZE, SIZE])
    network, logits = whole(path)
    scores = own_scores(network, [ROWS])
    assert check_last_exit(network, logits, scores) < 1e-5
    last = (ROWS[-1:] / 255 - 0.5) / 0.5
    images = np.repeat(last.transpose(0, 3, 1, 2), batch, axis=0).astype(np.float32)
    (expected,) = ort.InferenceSession(path).run(None, {"x": images})
    assert scores[-1] == pytest.approx(expected[0], abs=1e-5)


def softmax(net: Net, axes: list[int]) -> str:
    """Over 1 x 1 pixels of CLASSES channels, `axes` more added behind the batch."""
    logits = residual_body(net, "x")
    deep = net.add("Unsqueeze", [logits, net.constant(np.array(axes))])
    return net.add("Softmax", [deep], axis=1)


ENDS: dict[str, Callable[[Net], str]] = {
    "flatten": lambda net: net.add("Flatten", [softmax(net, [2, 3])], axis=1),
    "squeeze": lambda net: net.add(
        "Squeeze", [softmax(net, [2, 3]), net.constant(np.array([2, 3]))]
    ),
    "reshape": lambda net: net.add(
        "Reshape", [softmax(net, [2]), net.constant(np.array([-1, CLASSES]))]
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_softmax_is_found_behind_a_change_of_shape(end: str, tmp_path: Path) -> None:
    net = Net()
    network, logits = whole(net.save(tmp_path / "n.onnx", ENDS[end](net), DYNAMIC))
    assert network.gives_probabilities
    scores = own_scores(network, [ROWS])
    assert scores.sum(axis=1) == pytest.approx(1)
    assert check_last_exit(network, logits, scores) < 1e-5


def sigmoid(net: Net) -> str:
    return net.add("Sigmoid", [residual_body(net, "x")])


def written_out(net: Net) -> str:
    powers = net.add("Exp", [residual_body(net, "x")])
    total = net.add("ReduceSum", [powers, net.constant(np.array([1]))])
    return net.add("Div", [powers, total])


@pytest.mark.parametrize("end", [sigmoid, written_out])
def test_probabilities_without_a_softmax_are_refused(
    end: Callable[[Net], str], tmp_path: Path
) -> None:
    net = Net()
    path = net.save(tmp_path / "n.onnx", end(net), DYNAMIC)
    assert "from 0 to 1, as behind a sigmoid, and no softmax" in refused(path)


def test_scores_of_every_pixel_are_refused(tmp_path: Path) -> None:
    net = Net()
    path = net.save(tmp_path / "n.onnx", net.conv("x", 1, CLASSES), DYNAMIC)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    expected = f"the network gives {CLASSES} x {SIZE} x {SIZE} scores; exits need one for each"
    assert expected in refused(path)
