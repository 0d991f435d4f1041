"""Networks that exits cannot be put on are refused in one sentence, before any work."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.training.attaching.networks import CLASSES, SIZE, Net, residual, residual_body
from training.attaching.errors import AttachError
from training.attaching.program import program
from training.attaching.read import Options, parsed_labels, read


def refused(path: Path) -> str:
    with pytest.raises(AttachError) as error:
        program(read(path, Options()))
    return str(error.value)


def test_no_file_and_no_network(tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    assert "is no ONNX model" in refused(tmp_path / "text.onnx")


def test_an_opset_too_old(tmp_path: Path) -> None:
    net = Net()
    path = net.save(
        tmp_path / "n.onnx", residual_body(net, "x"), ["batch", 1, SIZE, SIZE], opset=10
    )
    assert "has opset 10; export it with 11 or later" in refused(path)


def test_tokens_and_rows_are_no_images(tmp_path: Path) -> None:
    net = Net()
    output = net.add("Gemm", ["x", net.weight(SIZE, CLASSES)])
    path = net.save(tmp_path / "n.onnx", output, ["batch", SIZE])
    assert "takes float of 2 dimensions as x; images are float or uint8" in refused(path)


def test_two_outputs(tmp_path: Path) -> None:
    path = residual(tmp_path / "n.onnx")
    model = onnx.load(path)
    other = helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, None)
    model.graph.output.append(other)
    onnx.save(model, path)
    assert "must have one output, logits or probabilities; it has" in refused(path)


def test_a_batch_that_cannot_grow(tmp_path: Path) -> None:
    """All numbers of the batch in one row: with two images there is still one."""
    net = Net()
    x = net.add("Flatten", [net.conv("x", 1, 4)], axis=0)
    output = net.add("Gemm", [x, net.weight(4 * SIZE * SIZE, CLASSES)])
    path = net.save(tmp_path / "n.onnx", output, [1, 1, SIZE, SIZE])
    assert "cannot run a batch of 2; export it with a dynamic batch" in refused(path)


def test_labels_in_metadata_or_a_file(tmp_path: Path) -> None:
    path = residual(tmp_path / "n.onnx")
    model = onnx.load(path)
    helper.set_model_props(model, {"names": '{"0": "cat", "1": "dog"}'})
    onnx.save(model, path)
    assert read(path, Options()).labels == ("cat", "dog")
    assert parsed_labels("cat\ndog\n") == parsed_labels("cat, dog") == ("cat", "dog")
    assert parsed_labels('["cat", "dog"]') == ("cat", "dog")


def test_external_data_is_read(tmp_path: Path) -> None:
    path = residual(tmp_path / "n.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="n.data", size_threshold=0)
    assert (tmp_path / "n.data").exists()
    assert len(program(read(path, Options())).constants) > 5
    (tmp_path / "n.data").unlink()
    assert "its data are missing" in refused(path)
