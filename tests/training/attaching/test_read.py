"""Networks that exits cannot be put on are refused in one sentence, before any work."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.training.attaching.networks import CLASSES, SIZE, Net, residual, residual_body
from training.attaching.errors import AttachError
from training.attaching.program import program
from training.attaching.read import Options, metadata_labels, parsed_labels, read, text_of


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


def test_raw_pixels_have_no_mean(tmp_path: Path) -> None:
    net = Net()
    output = residual_body(net, net.add("Cast", ["x"], to=TensorProto.FLOAT))
    shape: list[int | str] = ["batch", 1, SIZE, SIZE]
    path = net.save(tmp_path / "n.onnx", output, shape, TensorProto.UINT8)
    with pytest.raises(AttachError, match=r"takes pixels as they are, uint8: leave out --mean$"):
        read(path, Options(mean=(0.5,)))


def test_texts_have_no_size(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("y", TensorProto.INT64, None)
    node = helper.make_node("Identity", ["input_ids"], ["y"])
    onnx.save(
        helper.make_model(helper.make_graph([node], "texts", inputs, [output])), tmp_path / "n.onnx"
    )
    with pytest.raises(AttachError, match=r"takes texts: leave out --resize, --channels-first$"):
        read(tmp_path / "n.onnx", Options(resize="crop", channels_first=False))


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
    assert metadata_labels(model, path) is None
    helper.set_model_props(model, {"task": "classify", "names": "{0: 'cat', 1: \"dog's\"}"})
    assert metadata_labels(model, path) == ("cat", "dog's")
    assert parsed("cat\ndog\n") == parsed("cat, dog") == parsed('["cat", "dog"]') == ("cat", "dog")


def test_a_file_of_labels_may_come_from_any_editor(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffcat\r\nant-ä\r\n".encode())
    assert parsed(text_of(file)) == ("cat", "ant-ä")
    file.write_bytes("cat\nant-ä\n".encode("latin-1"))
    with pytest.raises(AttachError, match=r"labels.txt is no text in UTF-8$"):
        text_of(file)


def parsed(text: str) -> tuple[str, ...]:
    return parsed_labels(text, "labels.json")


def test_labels_with_an_index_are_in_its_order() -> None:
    """As Transformers, Keras and Ultralytics write them, JSON sorted by its keys among them."""
    letters = tuple("abcdefghijk")
    by_key = sorted((str(index), label) for index, label in enumerate(letters))
    assert by_key[2] == ("10", "k")
    assert parsed(json.dumps(dict(by_key))) == letters
    assert parsed(str({int(index): label for index, label in by_key})) == letters
    assert parsed(json.dumps({label: int(index) for index, label in by_key})) == letters


def test_labels_may_be_numbers() -> None:
    """Folders named 0 to 10, as Keras numbers them: in the order of their names."""
    folders = tuple(sorted(map(str, range(11))))
    assert parsed(json.dumps({name: index for index, name in enumerate(folders)})) == folders
    assert parsed(json.dumps({str(i): name for i, name in enumerate(folders)})) == folders
    assert parsed("{0: 1998, 1: 1999}") == ("1998", "1999")


@pytest.mark.parametrize(
    "text",
    [
        '{"1": "cat", "2": "dog"}',
        '{"cat": 0, "dog": 0}',
        '{"0": ["n01440764", "tench"]}',
        '{"cat": "dog"}',
        "[null]",
        "{cat: 0}",
        "{'cat', 'dog'",
        "{'cat', 'dog'}",
    ],
)
def test_labels_without_an_order_are_refused(text: str) -> None:
    with pytest.raises(AttachError, match=r"^labels.json is no list of labels, and neither {index"):
        parsed(text)


def test_external_data_is_read(tmp_path: Path) -> None:
    path = residual(tmp_path / "n.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="n.data", size_threshold=0)
    assert (tmp_path / "n.data").exists()
    assert len(program(read(path, Options())).constants) > 5
    (tmp_path / "n.data").unlink()
    assert "its data are missing" in refused(path)
