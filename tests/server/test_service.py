"""The service in the real application."""

import base64
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np
import pytest
from PIL import Image

from models.bundle.bundle import Bundle
from server.engine.admission import Slots
from server.engine.job import Given, Job
from server.errors import Overloaded
from server.http.decode import Images
from server.service import Service
from tests.server.conftest import made_profile, served
from tests.server.live import PATIENCE_S, PNG, listening, samples, sums

TYPE = {"content-type": "image/png"}


@pytest.mark.parametrize(("priority", "is_learned"), [("normal", True), ("background", False)])
def test_response_times_are_learned_except_from_background_requests(
    digits_bundle: Bundle, priority: str, is_learned: bool
) -> None:
    """They wait for idle time. If it counted, other requests would be refused for want of time."""
    with listening(served(digits_bundle, made_profile(0.0005))) as (server, url):
        service: Service = server.config.loaded_app.state.service
        pace = service.engine.pace
        before_s = pace.delivery_s
        said = httpx.post(f"{url}/v1/classify?priority={priority}", content=PNG, headers=TYPE)
        assert said.status_code == 200
        assert (pace.delivery_s != before_s) is is_learned


def test_the_images_of_a_request_do_not_hold_up_another(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, one = large_image(1), large_image(2)
    has_begun, has_come, order, parts_of = threading.Event(), threading.Event(), [], Images.parts

    def parts(self: Images) -> list[Callable[[], list[Given]]]:
        if one in self.contents:
            has_come.set()
        return [partial(decoded, self.contents[0], part) for part in parts_of(self)]

    def decoded(content: bytes, part: Callable[[], list[Given]]) -> list[Given]:
        order.append("one" if content == one else "many")
        has_begun.set()
        assert has_come.wait(PATIENCE_S)
        return part()

    monkeypatch.setattr(Images, "parts", parts)
    model = served(digits_bundle, made_profile(0.0005))
    with listening(model, workers=1) as (_, url), ThreadPoolExecutor() as clients:
        images = {"images": [base64.b64encode(many).decode()] * 3}
        first = clients.submit(httpx.post, f"{url}/v1/classify", json=images)
        assert has_begun.wait(PATIENCE_S)
        second = httpx.post(f"{url}/v1/classify", content=one, headers=TYPE)
        assert (first.result().status_code, second.status_code) == (200, 200)
    assert order == ["many", "one", "many", "many"]


@pytest.mark.parametrize(
    ("priority", "reason", "expected"), [("normal", "overload", 2), ("background", "background", 1)]
)
def test_what_an_engine_refuses_once_it_has_the_rows_is_shed_and_has_not_failed(
    digits_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    priority: str,
    reason: str,
    expected: int,
) -> None:
    """As engines of other machines do, which are asked for room and given the rows at once."""
    with listening(served(digits_bundle, made_profile(0.0005))) as (server, url):
        engine = server.config.loaded_app.state.service.engine

        def refuse(slots: Slots, jobs: list[Job]) -> None:
            engine.release(slots)
            for job in jobs:
                job.deliver(Overloaded("its queue is full"))

        monkeypatch.setattr(engine, "submit", refuse)
        images = {"images": [base64.b64encode(PNG).decode()] * 2}
        said = httpx.post(f"{url}/v1/classify?priority={priority}", json=images)
        assert (said.status_code, said.json()["detail"]) == (503, "its queue is full")
        counted = samples(url)
    assert counted[f'offramp_shed_total{{reason="{reason}"}}'] == expected
    assert sums(counted, "offramp_inferences_total") == 0


def large_image(seed: int) -> bytes:
    """More bytes than are decoded on the event loop."""
    pixels = np.random.default_rng(seed).integers(0, 256, (400, 400), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
