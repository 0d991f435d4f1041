"""Texts, rows of numbers and encoded images over /v2, by Triton's own client and by hand."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

from benchmarks.process import ServerProcess
from tests.e2e.kinds.conftest import LABELS, TEXTS
from tests.images import encoded


@pytest.fixture(scope="module")
def triton_client(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as session:
        yield session


def tensor(name: str, values: Any, kind: str, *, binary: bool = True) -> triton.InferInput:  # noqa: ANN401
    made = triton.InferInput(name, list(values.shape), kind)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def labels_of(said: Any) -> list[str]:  # noqa: ANN401
    return [label.decode() for label in said.as_numpy("label")]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_tritons_client_sends_texts(
    triton_client: triton.InferenceServerClient, binary: bool, shape: tuple[int, ...]
) -> None:
    texts = np.array([text.encode() for text in TEXTS], object).reshape(shape)
    said = triton_client.infer("words", [tensor("text", texts, "BYTES", binary=binary)])
    assert labels_of(said) == list(LABELS)
    assert said.get_response()["parameters"]["num_truncated"] == 1


def test_tritons_client_sends_encoded_images(triton_client: triton.InferenceServerClient) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
    files = np.array([encoded(Image.fromarray(image)) for image in pixels], object)
    asked = [wanted("label"), wanted("probabilities")]
    by_file = triton_client.infer("digits", [tensor("images", files, "BYTES")], outputs=asked)
    plain = tensor("images", pixels[..., None], "UINT8")
    by_pixel = triton_client.infer("digits", [plain], outputs=asked)
    assert labels_of(by_file) == labels_of(by_pixel)


def wanted(name: str) -> triton.InferRequestedOutput:
    return triton.InferRequestedOutput(name, binary_data=True)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_sends_rows(
    triton_client: triton.InferenceServerClient, binary: bool
) -> None:
    numbers = np.array([[0, 0, 0], [9, 0, 0]], np.float32)
    colours = np.array([[2], [1]], np.int64)
    inputs = [
        tensor("colour", colours, "INT64", binary=binary),
        tensor("numbers", numbers, "FP32", binary=binary),
    ]
    assert labels_of(triton_client.infer("numbers", inputs)) == ["weather", "money"]
    alone = triton_client.infer("row", [tensor("x", numbers[1:], "FP32", binary=binary)])
    assert labels_of(alone) == ["money"]


def test_triton_is_told_what_models_take(triton_client: triton.InferenceServerClient) -> None:
    words = triton_client.get_model_metadata("words")["inputs"]
    assert words == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    numbers = triton_client.get_model_metadata("numbers")["inputs"]
    assert [(each["name"], each["datatype"]) for each in numbers] == [
        ("numbers", "FP32"),
        ("colour", "INT64"),
    ]


@pytest.mark.parametrize(
    ("model", "inputs", "tail", "says"),
    [
        ("words", [("text", "BYTES", [1], ["a\ud800"])], b"", "text|JSON|surrogate"),
        ("words", [("text", "BYTES", [1], ["a\0b"])], b"", "inputs.0.data.0: has a NUL"),
        ("words", [("text", "BYTES", [1], [3])], b"", "inputs.0.data: must have 1 strings"),
        ("words", [("text", "BYTES", [2], ["a"])], b"", "inputs.0.data: must have 2 strings"),
        ("words", [("text", "BYTES", [1], 5)], b"\1\0\0\0\xff", "inputs.0.data.0: is not UTF-8"),
        ("words", [("text", "BYTES", [1], 5)], b"\2\0\0\0a", "each after its length"),
        ("words", [("text", "BYTES", [1], 6)], b"\1\0\0\0ab", "each after its length"),
        ("words", [("text", "FP32", [1], [1.0])], b"", "text is BYTES"),
        ("words", [("text", "BYTES", [1, 2], ["a", "b"])], b"", "text is [1 to 8]"),
        ("digits", [("images", "BYTES", [1], ["x"])], b"", "images in JSON are base64"),
        ("digits", [("images", "BYTES", [1], 5)], b"\1\0\0\0a", "not a PNG"),
        ("digits", [("images", "BYTES", [2], 8)], bytes(8), "inputs.0.data.0: not a PNG"),
        ("row", [("x", "FP32", [1, 3], [1.0, 2.0])], b"", "2 elements; shape [1, 3] has 3"),
        ("row", [("x", "FP32", [1, 3], [1, 2, 10**400])], b"", "inputs.0.data"),
        (
            "row",
            [("x", "FP32", [1, 3], 12)],
            np.array([1, np.nan, 3], "<f4").tobytes(),
            "inputs.0: has",
        ),
        (
            "row",
            [("x", "FP32", [1, 3], 12)],
            np.array([1, np.inf, 3], "<f4").tobytes(),
            "not finite",
        ),
        ("row", [("x", "FP32", [1, 3], 8)], bytes(8), "8 bytes of data"),
        ("numbers", [("numbers", "FP32", [1, 3], [1, 2, 3])], b"", "there must be these 2"),
        (
            "numbers",
            [("numbers", "FP32", [1, 3], [1, 2, 3]), ("colour", "INT64", [2, 1], [1, 1])],
            b"",
            "inputs.1.shape: has not 1 rows",
        ),
        (
            "numbers",
            [("numbers", "FP32", [1, 3], [1, 2, 3]), ("colour", "INT64", [1, 1], [2**63])],
            b"",
            "inputs.1.data: INT64 elements are integers",
        ),
    ],
)
def test_tensors_that_are_not_what_the_model_takes(
    client: httpx.Client, model: str, inputs: list[Any], tail: bytes, says: str
) -> None:
    asked = []
    for name, kind, shape, data in inputs:
        given = {"name": name, "datatype": kind, "shape": shape}
        binary = {"parameters": {"binary_data_size": data}}
        asked.append(given | (binary if isinstance(data, int) else {"data": data}))
    head = json.dumps({"inputs": asked}).encode()
    said = client.post(
        f"/v2/models/{model}/infer",
        content=head + tail,
        headers={"inference-header-content-length": str(len(head))},
    )
    assert said.status_code == 400
    assert any(each in said.json()["error"] for each in says.split("|")), said.text


def test_the_bytes_alone_are_a_text(client: httpx.Client) -> None:
    headers = {"inference-header-content-length": "0"}
    said = client.post("/v2/models/words/infer", content=b"rain rain", headers=headers)
    assert said.status_code == 200
    assert b"weather" in said.content
