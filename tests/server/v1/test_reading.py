"""What clients call their images, and parameters that are said twice or not at all."""

import base64
import json

import httpx
import pytest

from server.engine.model import ServedModel
from tests.server.live import PNG, live

BASE64 = base64.b64encode(PNG).decode()
JSON = {"content-type": "application/json"}
RAW = ["image/png", "image/jpg", "image/jpeg", "application/octet-stream", "IMAGE/PNG; x=y"]


def test_an_image_is_taken_under_every_common_name(model: ServedModel) -> None:
    with live(model) as url:
        path = f"{url}/v1/classify?threshold=1"
        said = [httpx.post(path, content=PNG, headers={"content-type": kind}) for kind in RAW]
        said += [httpx.post(path, files={part: PNG}) for part in ("image", "images", "file")]
        assert [answer.status_code for answer in said] == [200] * len(said)
        assert {(answer.json()["label"], answer.json()["exit"]) for answer in said} == {
            (said[0].json()["label"], 3)
        }
        several = httpx.post(path, files=[("file", PNG), ("file", PNG)])
        assert len(several.json()["results"]) == 2


def test_another_name_is_told_the_right_one(model: ServedModel) -> None:
    with live(model) as url:
        for given in ({"files": {"photo": PNG}}, {"data": {"top_k": "1"}, "files": {"x": b""}}):
            said = httpx.post(f"{url}/v1/classify", **given)
            assert said.status_code == 422
            assert "called image" in said.json()["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("top_k=1&top_k=2", "top_k"),
        ("threshold=1&model=digits&threshold=1", "threshold"),
        ("operating_point=", "operating_point"),
        ("model=", "model"),
        ("latency_budget_ms", "latency_budget_ms"),
    ],
)
def test_a_query_that_says_a_thing_twice_or_not_at_all(
    model: ServedModel, query: str, field: str
) -> None:
    with live(model) as url:
        said = httpx.post(
            f"{url}/v1/classify?{query}", content=PNG, headers={"content-type": "image/png"}
        )
        assert said.status_code == 422
        assert [entry["field"] for entry in said.json()["errors"]] == [field]


def test_bodies_that_say_a_thing_twice_or_not_at_all(model: ServedModel) -> None:
    empty = json.dumps({"images": [BASE64], "operating_point": ""})
    twice = json.dumps({"images": [BASE64], "top_k": 1})[:-1] + ', "top_k": 2}'
    with live(model) as url:
        path = f"{url}/v1/classify"
        said = httpx.post(path, content=empty, headers=JSON)
        assert (said.status_code, said.json()["errors"][0]["field"]) == (422, "operating_point")
        said = httpx.post(path, content=twice, headers=JSON)
        assert (said.status_code, "twice" in said.json()["detail"]) == (400, True)
        for value in ("", ["1", "2"]):
            said = httpx.post(path, files={"image": PNG}, data={"top_k": value})
            assert (said.status_code, said.json()["errors"][0]["field"]) == (422, "top_k")
