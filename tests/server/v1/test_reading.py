"""What clients call their images, and parameters that are said twice or not at all."""

import base64
import json

import httpx
import pytest

from server.engine.model import ServedModel
from server.errors import UnsupportedMedia
from server.v1.reading import check_charset
from tests.server.live import PNG, live

BASE64 = base64.b64encode(PNG).decode()
JSON = {"content-type": "application/json"}
FORM = "multipart/form-data; boundary=x"
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", True),
        ("latency_budget_ms", True),
        ("threshold", "1"),
        ("min_exit", 1.0),
        ("trace", 1),
    ],
)
def test_json_has_types(model: ServedModel, field: str, value: object) -> None:
    """Where a query and a form have text alone."""
    with live(model) as url:
        body = {"images": [BASE64], field: value}
        said = httpx.post(f"{url}/v1/classify", json=body)
        assert (said.status_code, said.json()["errors"][0]["field"]) == (422, field)
        body = {"images": [BASE64], field: True if field == "trace" else 1}
        assert httpx.post(f"{url}/v1/classify", json=body).status_code == 200


def test_forms_are_utf_8(model: ServedModel) -> None:
    image, name = (
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % part
        for part in ((b'image"; filename="i', PNG), (b"\\ud800", b"1"))
    )
    with live(model) as url:
        path = f"{url}/v1/classify"
        for charset, code in (("", 200), ("; charset=UTF-8", 200), ('; Charset="utf8"', 200)):
            kind = {"content-type": FORM + charset}
            said = httpx.post(path, content=image + b"--x--\r\n", headers=kind)
            assert said.status_code == code
        named = image + name + b"--x--\r\n"
        for charset in ("unicode_escape", "punycode", "latin-1", "x\u00e9"):
            kinds = [(b"content-type", f"{FORM}; charset={charset}".encode("latin-1"))]
            said = httpx.post(path, content=named, headers=kinds)
            assert (said.status_code, "UTF-8" in said.json()["detail"]) == (415, True)
        # two types are none
        twice = [("content-type", f"{FORM}; charset=unicode_escape"), ("content-type", FORM)]
        for types in (twice, twice[::-1]):
            assert httpx.post(path, content=named, headers=types).status_code == 415


def test_a_content_type_is_read_once() -> None:
    check_charset('text/plain; a="' + 300_000 * ";")  # in quadratic time this takes minutes
    with pytest.raises(UnsupportedMedia, match="'utf-16'"):
        check_charset("text/plain; a=b; charset=utf-16")


def test_half_a_surrogate_pair_is_refused_wherever_it_is(model: ServedModel) -> None:
    lone = "\\ud800"
    with live(model) as url:
        for body in (
            f'{{"images": ["{lone}"]}}',
            f'{{"images": ["{BASE64}"], "{lone}": 1}}',
            f'{{"images": ["{BASE64}"], "model": "{lone}"}}',
            f'{{"images": ["{BASE64}"], "top_k": ["{lone}"]}}',
            f'{{"images": ["{BASE64}"], "model": {{"{lone}": 1}}}}',
            f'{{"rows": [["{lone}"]], "images": 3}}',
            f'{{"texts": ["{lone}"]}}',
        ):
            said = httpx.post(f"{url}/v1/classify", content=body, headers=JSON)
            assert said.status_code in (400, 415, 422), said.text
            assert said.headers["content-type"] == "application/problem+json"
        for query in ("%ED%A0%80=1", "model=%ED%A0%80"):
            said = httpx.post(f"{url}/v1/classify?{query}", files={"image": PNG})
            assert (said.status_code, said.json()["status"]) in ((422, 422), (404, 404))
        for body in (f'{{"{lone}": 1}}', f'{{"id": "{lone}"}}', f'{{"outputs": ["{lone}"]}}'):
            said = httpx.post(f"{url}/v2/models/digits/infer", content=body)
            assert (said.status_code, list(said.json())) == (400, ["error"])
