"""Bad input gets one clear problem document, and the next request is answered as before."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.conftest import Serve
from tests.images import encoded, png_chunk
from tests.server.live import check_counts, series_of

PNG = {"content-type": "image/png"}
MAX_BODY_BYTES = 100_000
MAX_PIXELS = 10_000


def png(width: int = 8, height: int = 8) -> bytes:
    return encoded(Image.new("L", (width, height)))


@pytest.fixture(scope="module")
def client(serve: Serve, digits_zoo: Path) -> Iterator[httpx.Client]:
    limits = {"max_body_bytes": MAX_BODY_BYTES, "max_image_pixels": MAX_PIXELS, "max_images": 4}
    with serve(digits_zoo, **limits) as server, httpx.Client(base_url=server.url) as session:
        yield session


def ask(client: httpx.Client) -> tuple[str, int]:
    said = client.post("/v1/classify?threshold=1", content=png(), headers=PNG).json()
    return said["label"], said["exit"]


@pytest.fixture(scope="module")
def right(client: httpx.Client) -> tuple[str, int]:
    return ask(client)


@pytest.fixture(autouse=True)
def still_serves(client: httpx.Client, right: tuple[str, int]) -> Iterator[None]:
    yield
    assert ask(client) == right
    check_counts(client)


def base64s(*images: bytes) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("latency_budget_ms=0", "latency_budget_ms"),
        ("latency_budget_ms=-1", "latency_budget_ms"),
        ("latency_budget_ms=nan", "latency_budget_ms"),
        ("latency_budget_ms=inf", "latency_budget_ms"),
        ("latency_budget_ms=fast", "latency_budget_ms"),
        ("energy_budget_mj=-3", "energy_budget_mj"),
        ("energy_budget_mj=0", "energy_budget_mj"),
        ("energy_budget_mj=nan", "energy_budget_mj"),
        ("energy_budget_mj=little", "energy_budget_mj"),
        ("threshold=1.5", "threshold"),
        ("threshold=nan", "threshold"),
        ("threshold=0.5&operating_point=fast", "threshold"),
        ("operating_point=fastest", "operating_point"),
        ("min_exit=0", "min_exit"),
        ("min_exit=4", "min_exit"),
        ("max_exit=4", "max_exit"),
        ("min_exit=3&max_exit=2", "min_exit"),
        ("top_k=0", "top_k"),
        ("top_k=11", "top_k"),
        ("version=0", "version"),
        ("trace=perhaps", "trace"),
        ("budget=3", "budget"),
        ("query=1", "query"),
    ],
)
def test_bad_parameter_is_named(client: httpx.Client, query: str, field: str) -> None:
    said = client.post(f"/v1/classify?{query}", content=png(), headers=PNG)
    assert said.status_code == 422
    assert said.headers["content-type"] == "application/problem+json"
    assert [entry["field"] for entry in said.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("body", "status", "fields"),
    [
        ({"images": base64s(png()), "top_k": "many"}, 422, ["top_k"]),
        ({"images": base64s(png()), "unknown": 1}, 422, ["unknown"]),
        ({"images": []}, 422, ["images"]),
        ({"images": "AAAA"}, 422, ["images"]),
        ({"images": ["not base64!"]}, 422, ["images.0"]),
        ({"images": base64s(b"")}, 400, []),
        ({"images": base64s(*[png()] * 5)}, 422, ["images"]),
        ({}, 422, ["body"]),
        ([], 400, []),
    ],
)
def test_bad_json(client: httpx.Client, body: object, status: int, fields: list[str]) -> None:
    said = client.post("/v1/classify", json=body)
    assert said.status_code == status
    assert said.json()["status"] == status
    assert [entry["field"] for entry in said.json().get("errors", [])] == fields


def test_json_that_does_not_parse(client: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    said = client.post("/v1/classify", content=b'{"images": [', headers=headers)
    assert said.status_code == 400


def test_parameter_given_twice(client: httpx.Client) -> None:
    said = client.post("/v1/classify?top_k=1", json={"images": base64s(png()), "top_k": 2})
    assert said.status_code == 422
    assert said.json()["errors"][0]["field"] == "top_k"


@pytest.mark.parametrize(
    ("files", "field"),
    [({"photo": png()}, "photo"), ({"image": png(), "top_k": b"1"}, "top_k")],
)
def test_form_with_other_files(client: httpx.Client, files: dict[str, bytes], field: str) -> None:
    said = client.post("/v1/classify", files=files)
    assert said.status_code == 422
    assert said.json()["errors"][0]["field"] == field


GIF, BMP = (encoded(Image.new("L", (8, 8)), kind) for kind in ("GIF", "BMP"))
LATE_PROFILE = png()[:-12] + png_chunk(b"iCCP", b"") + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content", [b"", b"rubbish", png()[:45], png()[:30], GIF, BMP, LATE_PROFILE]
)
def test_bytes_that_are_no_image(client: httpx.Client, content: bytes) -> None:
    said = client.post("/v1/classify", content=content, headers=PNG)
    assert said.status_code == 400
    assert "Traceback" not in said.text


def test_the_damaged_image_of_several_is_named(client: httpx.Client) -> None:
    said = client.post("/v1/classify", json={"images": base64s(png(), b"rubbish")})
    assert said.status_code == 400
    detail = "not a PNG, JPEG, WEBP image"
    assert said.json()["detail"] == f"images.1: {detail}"
    assert said.json()["errors"] == [{"field": "images.1", "detail": detail}]


def test_too_many_images_are_refused_in_every_form(client: httpx.Client) -> None:
    by_json = client.post("/v1/classify", json={"images": base64s(*[png()] * 5)})
    by_forms = [client.post("/v1/classify", files=[("image", png())] * n) for n in (5, 6, 50)]
    for said, field in ((by_json, "images"), *((by_form, "image") for by_form in by_forms)):
        assert said.status_code == 422
        assert said.json()["errors"] == [{"field": field, "detail": "at most 4 images are taken"}]


def form(*parts: bytes, end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end


IMAGE_PART = b'Content-Disposition: form-data; name="image"; filename="i"\r\n\r\n' + png()
FIELD_PART = b'Content-Disposition: form-data; name="top_k"\r\n\r\n1'


@pytest.mark.parametrize(
    "body", [form(IMAGE_PART, IMAGE_PART, end=b""), form(IMAGE_PART)[:-40], b"no form"]
)
def test_damaged_form(client: httpx.Client, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    said = client.post("/v1/classify", content=body, headers=headers)
    assert said.status_code == 400


def test_hand_made_form_is_read(client: httpx.Client) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    content = form(IMAGE_PART, FIELD_PART)
    assert client.post("/v1/classify", content=content, headers=headers).status_code == 200


@pytest.mark.parametrize("media_type", ["image/gif", "text/html", "application/pdf", ""])
def test_content_type_that_is_not_served(client: httpx.Client, media_type: str) -> None:
    said = client.post("/v1/classify", content=png(), headers={"content-type": media_type})
    assert said.status_code == 415


def test_image_with_too_many_pixels(client: httpx.Client) -> None:
    assert client.post("/v1/classify", content=png(100, 100), headers=PNG).status_code == 200
    said = client.post("/v1/classify", content=png(101, 100), headers=PNG)
    assert said.status_code == 413
    assert "101 x 100" in said.json()["detail"]


def test_body_too_large(client: httpx.Client) -> None:
    said = client.post("/v1/classify", content=b"0" * (MAX_BODY_BYTES + 1), headers=PNG)
    assert said.status_code == 413
    chunks = (b"0" * 1000 for _ in range(MAX_BODY_BYTES // 1000 + 1))
    assert client.post("/v1/classify", content=chunks, headers=PNG).status_code == 413


@pytest.mark.parametrize(
    ("query", "field"),
    [("model=other", "model"), ("model=../digits", "model"), ("version=2", "version")],
)
def test_unknown_model(client: httpx.Client, query: str, field: str) -> None:
    said = client.post(f"/v1/classify?{query}", content=png(), headers=PNG)
    assert said.status_code == 404
    assert [entry["field"] for entry in said.json()["errors"]] == [field]


def test_infeasible_names_the_budget(client: httpx.Client) -> None:
    series = 'offramp_shed_total{reason="infeasible"}'
    shed = series_of(client.get("/metrics"))[series]
    for field in ("latency_budget_ms", "energy_budget_mj"):
        said = client.post(f"/v1/classify?strict=true&{field}=0.00001", content=png(), headers=PNG)
        assert said.status_code == 503
        assert [entry["field"] for entry in said.json()["errors"]] == [field]
    assert series_of(client.get("/metrics"))[series] == shed + 2


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    for said, status in (
        (client.get("/nowhere"), 404),
        (client.get("/v1/models/other"), 404),
        (client.get("/v1/classify"), 405),
    ):
        assert said.status_code == status
        assert said.headers["content-type"] == "application/problem+json"
    assert client.get("/v1/classify").headers["allow"] == "POST"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_format_is_read(client: httpx.Client, kind: str) -> None:
    headers = {"content-type": f"image/{kind.lower()}"}
    said = client.post(
        "/v1/classify", content=encoded(Image.new("L", (16, 16)), kind), headers=headers
    )
    assert said.status_code == 200
