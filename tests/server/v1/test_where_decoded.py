"""Small images and bodies are decoded on the event loop, where waking a thread takes longer."""

import threading
from base64 import b64encode
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from server.engine.job import Given
from server.engine.model import ServedModel
from server.http.decode import Images
from server.http.strict_json import parse_object
from server.v1 import reading
from tests.images import encoded
from tests.server.live import live

NOISE = np.random.default_rng(0).integers(0, 256, (400, 400), dtype=np.uint8)
SMALL = encoded(Image.new("L", (8, 8)))
MANY_BYTES = encoded(NOISE)
MANY_PIXELS = encoded(Image.new("L", (500, 500)))
TEXT = PngInfo()
TEXT.add_text("Comment", "text", zip=True)
WITH_TEXT = encoded(Image.new("L", (8, 8)), pnginfo=TEXT)


@pytest.mark.parametrize(
    ("image", "is_elsewhere"),
    [(SMALL, [False]), (MANY_BYTES, [True]), (MANY_PIXELS, [False, True]), (WITH_TEXT, [True])],
)
def test_what_takes_long_is_decoded_elsewhere(
    image: bytes, is_elsewhere: list[bool], model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many pixels in few bytes are only found out on the loop: their decoding is another's.

    A few bytes of compressed text can be a megabyte, too.
    """
    found: list[bool] = []

    def watched(images: Images, index: int) -> Given:
        found.append(threading.current_thread().name.startswith("offramp-decode"))
        return decode_one(images, index)

    decode_one = Images.decode_one
    monkeypatch.setattr(Images, "decode_one", watched)
    with live(model) as url:
        answer = httpx.post(
            f"{url}/v1/classify", content=image, headers={"content-type": "image/png"}
        )
    assert answer.status_code == 200
    assert answer.json()["exit"] in (1, 2, 3)
    assert found == is_elsewhere


@pytest.mark.parametrize(("image", "is_elsewhere"), [(SMALL, False), (MANY_BYTES, True)])
def test_json_of_many_bytes_is_parsed_elsewhere(
    image: bytes, is_elsewhere: bool, model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []

    def watched(body: bytes) -> dict[str, Any]:
        found.append(threading.current_thread().name.startswith("offramp-decode"))
        return parse_object(body)

    monkeypatch.setattr(reading, "parse_object", watched)
    with live(model) as url:
        body = {"images": [b64encode(image).decode()]}
        assert httpx.post(f"{url}/v1/classify", json=body).status_code == 200
    assert found == [is_elsewhere]
