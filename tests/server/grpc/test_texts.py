"""Triton's own gRPC client, unmodified, sends texts, encoded images and rows of numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException

from benchmarks.fuzz_texts import small_models
from benchmarks.process import free_port
from server.engine.model import ServedModel
from tests.images import encoded
from tests.server.live import live

TEXTS = ("what is my balance", "Play the song", "rain " * 40, "שלום louder")
LABELS = ["money", "music", "weather", "music"]
NUMBERS = np.array([[0, 0, 0], [9, 0, 0]], np.float32)
COLOURS = np.array([[2], [1]], np.int64)
Array = NDArray[Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    """Models of texts, of two tensors, and of one."""
    served = small_models(tmp_path_factory.mktemp("zoo"))
    return {model.manifest.name: model for model in served}


@contextmanager
def client_of(model: ServedModel) -> Iterator[triton.InferenceServerClient]:
    port = free_port()
    with (
        live(model, grpc_port=port),
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        yield client


@pytest.fixture(scope="module")
def words(models: dict[str, ServedModel]) -> Iterator[triton.InferenceServerClient]:
    with client_of(models["words"]) as client:
        yield client


@pytest.fixture(scope="module")
def numbers(models: dict[str, ServedModel]) -> Iterator[triton.InferenceServerClient]:
    with client_of(models["numbers"]) as client:
        yield client


def tensor(name: str, values: Array, datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def as_bytes(contents: Sequence[bytes]) -> Array:
    return np.array(contents, object)


def labels_of(said: Any) -> list[str]:  # noqa: ANN401
    return [label.decode() for label in said.as_numpy("label")]


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_texts(words: triton.InferenceServerClient, shape: tuple[int, ...]) -> None:
    texts = as_bytes([text.encode() for text in TEXTS]).reshape(shape)
    said = words.infer("words", [tensor("text", texts, "BYTES")])
    assert labels_of(said) == LABELS
    assert said.get_response().parameters["num_truncated"].int64_param == 1


def test_rows_of_several_tensors_and_of_one(
    numbers: triton.InferenceServerClient, models: dict[str, ServedModel]
) -> None:
    inputs = [tensor("colour", COLOURS, "INT64"), tensor("numbers", NUMBERS, "FP32")]
    assert labels_of(numbers.infer("numbers", inputs)) == ["weather", "money"]
    with client_of(models["row"]) as row:
        assert labels_of(row.infer("row", [tensor("x", NUMBERS[1:], "FP32")])) == ["money"]


def test_typed_contents(
    words: triton.InferenceServerClient, numbers: triton.InferenceServerClient
) -> None:
    request = triton.service_pb2.ModelInferRequest(model_name="words")
    text = request.inputs.add(name="text", datatype="BYTES", shape=[len(TEXTS)])
    text.contents.bytes_contents.extend(each.encode() for each in TEXTS)
    said = triton.InferResult(words._client_stub.ModelInfer(request))
    assert labels_of(said) == LABELS
    request = triton.service_pb2.ModelInferRequest(model_name="numbers")
    floats = request.inputs.add(name="numbers", datatype="FP32", shape=NUMBERS.shape)
    floats.contents.fp32_contents.extend(NUMBERS.ravel().tolist())
    integers = request.inputs.add(name="colour", datatype="INT64", shape=COLOURS.shape)
    integers.contents.int64_contents.extend(COLOURS.ravel().tolist())
    said = triton.InferResult(numbers._client_stub.ModelInfer(request))
    assert labels_of(said) == ["weather", "money"]


def test_more_elements_than_rows_are_not_looked_at(words: triton.InferenceServerClient) -> None:
    request = triton.service_pb2.ModelInferRequest(model_name="words")
    text = request.inputs.add(name="text", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.extend([b""] * 100_000)
    with pytest.raises(grpc.RpcError, match="bytes_contents has more values than any request"):
        words._client_stub.ModelInfer(request)


def test_encoded_images(model: ServedModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
    files = as_bytes([encoded(Image.fromarray(image)) for image in pixels])
    with client_of(model) as client:
        by_file = client.infer("digits", [tensor("images", files, "BYTES")])
        by_pixel = client.infer("digits", [tensor("images", pixels[..., None], "UINT8")])
    assert labels_of(by_file) == labels_of(by_pixel)


def test_triton_is_told_what_the_models_take(
    words: triton.InferenceServerClient, numbers: triton.InferenceServerClient
) -> None:
    (text,) = words.get_model_metadata("words").inputs
    assert (text.name, text.datatype, list(text.shape)) == ("text", "BYTES", [-1])
    (text,) = words.get_model_config("words").config.input
    assert triton.model_config_pb2.DataType.Name(text.data_type) == "TYPE_STRING"
    found = numbers.get_model_metadata("numbers").inputs
    assert [(each.name, each.datatype, list(each.shape)) for each in found] == [
        ("numbers", "FP32", [-1, 3]),
        ("colour", "INT64", [-1, 1]),
    ]


@pytest.mark.parametrize(
    ("name", "values", "datatype", "says"),
    [
        ("text", as_bytes([b"rain", b"\xff"]), "BYTES", "inputs.0.data.1: is not UTF-8"),
        ("text", as_bytes([b"a\0b"]), "BYTES", "inputs.0.data.0: has a NUL"),
        ("text", as_bytes([b" "]), "BYTES", "inputs.0.data.0: has no characters"),
        ("text", NUMBERS[0], "FP32", "text is BYTES"),
        ("body", as_bytes([b"rain"]), "BYTES", "inputs"),
    ],
)
def test_what_is_no_text_is_refused(
    words: triton.InferenceServerClient, name: str, values: Array, datatype: str, says: str
) -> None:
    refused(words, "words", [tensor(name, values, datatype)], says)
    assert labels_of(words.infer("words", [tensor("text", as_bytes([b"rain"]), "BYTES")]))


@pytest.mark.parametrize(
    ("values", "colours", "says"),
    [
        (np.array([[0, np.nan, 0]], np.float32), [[0]], "inputs.1: has"),
        (np.array([[0, 0, -np.inf]], np.float32), [[0]], "not finite"),
        (NUMBERS[:1], [[3]], "inputs.0"),
        (NUMBERS[:1], [[0], [1]], "rows"),
        (NUMBERS[:1, :2], [[0]], "inputs.1.shape"),
    ],
)
def test_what_is_no_row_is_refused(
    numbers: triton.InferenceServerClient, values: Array, colours: list[list[int]], says: str
) -> None:
    inputs = [tensor("colour", np.array(colours), "INT64"), tensor("numbers", values, "FP32")]
    refused(numbers, "numbers", inputs, says)


def refused(
    client: triton.InferenceServerClient, model: str, inputs: list[triton.InferInput], says: str
) -> None:
    with pytest.raises(InferenceServerException) as failure:
        client.infer(model, inputs)
    assert failure.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert says in failure.value.message()
