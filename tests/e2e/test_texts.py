"""Texts and rows of numbers on a real server: right answers, and clear refusals of all else."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

from benchmarks.process import ServerProcess
from benchmarks.small_bundles import write_row_bundle, write_tensor_bundle, write_text_bundle
from models.bundle.bundle import Bundle
from offramp_client import AsyncClient, Client, Exit, Final
from tests.bundles import copied
from tests.conftest import Serve
from tests.images import encoded
from tests.server.live import check_counts

PLAIN = {"content-type": "text/plain"}
MAX_CHARACTERS = 1000
LONG = "rain " * 40
TEXTS = ("what is my balance", "Play the song", "rain rain sun", LONG, "louder")
LABELS = ("money", "music", "weather", "weather", "music")


@pytest.fixture(scope="module")
def server(
    serve: Serve, digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    zoo = tmp_path_factory.mktemp("zoo")
    for write in (write_text_bundle, write_tensor_bundle, write_row_bundle):
        write(zoo)
    (zoo / "digits").mkdir()
    copied(digits_bundle.path, zoo, "digits", 1)
    settings = {"max_text_characters": MAX_CHARACTERS, "profile_s": 0.5, "max_images": 8}
    with serve(zoo, **settings) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as session:
        yield session


@pytest.fixture(autouse=True)
def still_serves(client: httpx.Client) -> Iterator[None]:
    yield
    assert ask(client, "my card")["label"] == "money"
    check_counts(client)


def ask(client: httpx.Client, text: str | bytes, query: str = "") -> Any:  # noqa: ANN401
    path = f"/v1/classify?model=words{query}"
    return client.post(path, content=text, headers=PLAIN).json()


def test_texts_are_answered_alone_and_together(client: httpx.Client) -> None:
    body = {"texts": TEXTS, "model": "words", "threshold": 1}
    together = client.post("/v1/classify", json=body).json()["results"]
    assert [answer["label"] for answer in together] == list(LABELS)
    assert [answer["truncated"] for answer in together] == [False, False, False, True, False]
    macs = [answer["cost"]["macs"] for answer in together]
    # 3 segments and 3 heads, by a length of 8, 4, 4, 16 and 4
    assert macs == [27 * length for length in (8, 4, 4, 16, 4)]
    for text, expected in zip(TEXTS, together, strict=True):
        alone = ask(client, text.encode(), "&threshold=1&trace=true")
        assert (alone["label"], alone["truncated"]) == (expected["label"], expected["truncated"])
        assert alone["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)
        assert [entry["exit"] for entry in alone["trace"]] == [1, 2, 3]
    assert ask(client, LONG)["exit"] == 1, "sure at once"


def test_what_is_odd_but_a_text_is_answered(client: httpx.Client) -> None:
    for text in (
        "שלום \u202erain\u202c rain",
        "e\u0301\u0300" * 50,
        "\ufeffrain",
        "🌧 rain",
        "\r\n.",
    ):
        said = ask(client, text.encode())
        assert said["exit"] in (1, 2, 3)
    assert ask(client, "שלום \u200f rain".encode())["label"] == "weather"


def test_a_text_streams_every_exit(client: httpx.Client) -> None:
    headers = PLAIN | {"accept": "text/event-stream"}
    said = client.post("/v1/classify?model=words&threshold=1", content="rain", headers=headers)
    events = [json.loads(line[6:]) for line in said.text.splitlines() if line.startswith("data: ")]
    assert [event.get("text") for event in events] == [0, 0, 0, None]
    assert [event["exit"] for event in events] == [1, 2, 3, 3]
    assert events[-1]["truncated"] is False


def refusal(said: httpx.Response) -> tuple[int, list[str], str]:
    """Status, fields and detail of a problem."""
    problem = said.json()
    fields = [entry["field"] for entry in problem.get("errors", [])]
    return said.status_code, fields, problem["detail"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"\xff\xfer\0a\0", 422, "is not UTF-8, at byte 0"),
        (b"rain \xed\xa0\x80", 422, "is not UTF-8, at byte 5"),
        (b"rain\0sun", 422, "has a NUL character"),
        (b"", 422, "has no characters but white space"),
        (b" \n\t ", 422, "has no characters but white space"),
        (b"x" * (MAX_CHARACTERS + 1), 413, "1001 characters; at most 1000 are read"),
    ],
    ids=["utf-16", "surrogate", "nul", "empty", "white", "long"],
)
def test_bytes_that_are_no_text_are_refused(
    client: httpx.Client, body: bytes, status: int, says: str
) -> None:
    said = client.post("/v1/classify?model=words", content=body, headers=PLAIN)
    assert refusal(said)[:2] == (status, ["text"])
    assert says in refusal(said)[2]


def test_ten_megabytes_of_one_character_are_refused(client: httpx.Client) -> None:
    """Beyond what a body may have, and below it."""
    for num_bytes in (10_000_000, 8_000_000):
        body = b"a" * num_bytes
        said = client.post("/v1/classify?model=words", content=body, headers=PLAIN)
        assert said.status_code == 413
        listed = b'{"model": "words", "texts": ["' + body[:-100] + b'"]}'
        headers = {"content-type": "application/json"}
        assert client.post("/v1/classify", content=listed, headers=headers).status_code == 413


@pytest.mark.parametrize(
    ("model", "body", "status", "fields"),
    [
        ("words", {"texts": []}, 422, ["texts"]),
        ("words", {"texts": "rain"}, 422, ["texts"]),
        ("words", {"texts": ["rain", 3]}, 422, ["texts.1"]),
        ("words", {"texts": ["rain", None]}, 422, ["texts.1"]),
        ("words", {"texts": ["rain", "\ud800"]}, 422, ["texts.1"]),
        ("words", {"texts": ["a\0b"]}, 422, ["texts.0"]),
        ("words", {"texts": ["rain", " "]}, 422, ["texts.1"]),
        ("words", {"texts": ["x" * 1001]}, 413, ["texts.0"]),
        ("words", {"texts": ["rain"] * 9}, 422, ["texts"]),
        ("words", {"texts": ["rain"], "rows": [[1]]}, 422, ["rows"]),
        ("words", {"text": "rain"}, 422, ["body"]),
        ("row", {"rows": []}, 422, ["rows"]),
        ("row", {"rows": [[1, 2]]}, 422, ["rows.0"]),
        ("row", {"rows": [[1, 2, 3], [1, 2, [3]]]}, 422, ["rows.1"]),
        ("row", {"rows": [[1, 2, "3"]]}, 422, ["rows.0"]),
        ("row", {"rows": [[1, 2, True]]}, 422, ["rows.0"]),
        ("row", {"rows": [[1, 2, None]]}, 422, ["rows.0"]),
        ("row", {"rows": [[1, 2, 1e39]]}, 422, ["rows.0"]),
        ("row", {"rows": [[1, 2, -9 * 10**38]]}, 422, ["rows.0"]),
        ("row", {"rows": [{"y": [1, 2, 3]}]}, 422, ["rows.0.y"]),
        ("numbers", {"rows": [[1, 2, 3]]}, 422, ["rows.0"]),
        ("numbers", {"rows": [{"numbers": [1, 2, 3]}]}, 422, ["rows.0.colour"]),
        ("numbers", {"rows": [{"numbers": [1, 2, 3], "colour": 0.5}]}, 422, ["rows.0.colour"]),
        ("numbers", {"rows": [{"numbers": [1, 2, 3], "colour": 2**63}]}, 422, ["rows.0.colour"]),
        ("numbers", {"rows": [{"numbers": [1, 2, 3], "colour": 3}]}, 422, ["rows.0.colour"]),
        ("numbers", {"rows": [{"numbers": [1, 2, 3], "colour": -1}]}, 422, ["rows.0.colour"]),
    ],
)
def test_lists_that_are_not_what_the_model_takes_name_the_place(
    client: httpx.Client, model: str, body: dict[str, object], status: int, fields: list[str]
) -> None:
    content = json.dumps({"model": model} | body).encode()
    headers = {"content-type": "application/json"}
    said = client.post("/v1/classify", content=content, headers=headers)
    assert refusal(said)[:2] == (status, fields), said.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 50])
def test_what_is_no_number_is_no_json(client: httpx.Client, number: str) -> None:
    body = b'{"model": "row", "rows": [[1, 2, %s]]}' % number.encode()
    headers = {"content-type": "application/json"}
    said = client.post("/v1/classify", content=body, headers=headers)
    assert said.status_code == 400
    assert "the JSON cannot be read" in said.json()["detail"]


def test_another_kind_is_told_what_the_model_takes(client: httpx.Client) -> None:
    png = encoded(Image.new("L", (8, 8)))
    for model, content, kind, takes in (
        ("digits", b"rain", "text/plain", "image/png"),
        ("words", png, "image/png", "text/plain"),
        ("words", png, "application/octet-stream", "text/plain"),
        ("row", b"rain", "text/plain", "`rows`"),
        ("words", b"rain", "text/plain; charset=latin-1", "UTF-8"),
    ):
        headers = {"content-type": kind}
        said = client.post(f"/v1/classify?model={model}", content=content, headers=headers)
        assert said.status_code == 415
        assert takes in said.json()["detail"]
    form = client.post("/v1/classify?model=words", files={"image": png})
    assert form.status_code == 415
    for model, body in (("digits", {"texts": ["x"]}), ("words", {"rows": [[1]]})):
        said = client.post(f"/v1/classify?model={model}", json=body)
        assert refusal(said)[:2] == (422, [next(iter(body))])
        assert f"{model} takes" in said.json()["detail"]


def test_rows_of_numbers_are_answered(client: httpx.Client) -> None:
    rows = [{"numbers": [0, 3.5, 1], "colour": [0]}, {"numbers": [0, 0, 0], "colour": 2}]
    said = client.post("/v1/classify?model=numbers", json={"rows": rows}).json()["results"]
    assert [answer["label"] for answer in said] == ["music", "weather"]
    assert "truncated" not in said[0]
    for row in ([5, 1, 2], {"x": [5, 1, 2]}):
        said = client.post("/v1/classify?model=row", json={"rows": [row]}).json()
        assert said["label"] == "money"


def test_models_say_what_they_take_with_an_example_that_runs(client: httpx.Client) -> None:
    found = {}
    for model in client.get("/v1/models").json()["models"]:
        (version,) = model["versions"]
        found[model["name"]] = version["input"]
        example = version["example"]
        said = client.post(example["path"], json=example["body"])
        assert said.status_code == 200
        assert said.json()["model"] == model["name"]
    assert found["digits"]["kind"] == "image"
    assert found["words"] == {
        "kind": "text",
        "lengths": [4, 8, 16],
        "max_tokens": 16,
        "max_characters": MAX_CHARACTERS,
    }
    assert found["numbers"]["tensors"] == [
        {"name": "numbers", "dtype": "float32", "shape": [3], "span": None},
        {"name": "colour", "dtype": "int64", "shape": [1], "span": [0, 2]},
    ]


def test_the_clients_take_texts_and_rows(server: ServerProcess) -> None:
    options: Any = {"model": "words", "threshold": 1.0}
    with Client(server.url) as client:
        answer = client.classify(text="play the song", model="words")
        assert (answer["label"], answer["truncated"]) == ("music", False)
        several = client.classify_all(texts=TEXTS, model="words")
        assert [each["label"] for each in several] == list(LABELS)
        assert client.classify(row=[0, 0, 9.5], model="row")["label"] == "weather"
        row = {"numbers": [0, 0, 0], "colour": 1}
        assert client.classify_all(rows=[row], model="numbers")[0]["label"] == "music"
        png = encoded(Image.new("L", (8, 8)))
        assert client.classify(image=png, model="digits")["num_exits"] == 3
        with client.stream(texts=["rain", "pay"], **options) as events:
            *exits, final = list(events)
        assert isinstance(final, Final)
        assert len(exits) == 6
        assert {each.said["text"] for each in exits if isinstance(each, Exit)} == {0, 1}
        with pytest.raises(ValueError, match="images, texts or rows"):
            client.classify(text="rain", row=[1])

    async def run() -> str:
        async with AsyncClient(server.url) as session:
            return (await session.classify(text="rain", model="words"))["label"]

    assert asyncio.run(run()) == "weather"


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


def test_several_processes_and_the_zoo_hold_texts(serve: Serve, tmp_path: Path) -> None:
    write_text_bundle(tmp_path)
    with serve(tmp_path, processes=2, profile_s=0.5) as server:
        for _ in range(4):
            said = httpx.post(f"{server.url}/v1/classify", content=b"rain", headers=PLAIN)
            assert said.json()["label"] == "weather"
