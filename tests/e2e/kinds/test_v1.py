"""Texts and rows of numbers over /v1: right answers, and clear refusals of all else."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from benchmarks.process import ServerProcess
from benchmarks.small_bundles import write_text_bundle
from offramp_client import AsyncClient, Client, Exit, Final
from tests.conftest import Serve
from tests.e2e.kinds.conftest import LABELS, LONG, MAX_CHARACTERS, PLAIN, TEXTS, ask
from tests.images import encoded


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


def test_several_processes_and_the_zoo_hold_texts(serve: Serve, tmp_path: Path) -> None:
    write_text_bundle(tmp_path)
    with serve(tmp_path, processes=2, profile_s=0.5) as server:
        for _ in range(4):
            said = httpx.post(f"{server.url}/v1/classify", content=b"rain", headers=PLAIN)
            assert said.json()["label"] == "weather"
