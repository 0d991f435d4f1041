"""A strict request whose image would be decoded too late is refused before it is decoded."""

import httpx
import pytest
from PIL import Image

from server.engine.model import ServedModel
from tests.images import encoded
from tests.server.live import live, samples

LARGE = encoded(Image.new("L", (4000, 3000)))
"""12 megapixels: decoding takes tens of milliseconds, and PNG has no smaller version to decode."""
NUM_DECODED = "offramp_decode_duration_seconds_count"
REFUSED = 'offramp_shed_total{reason="infeasible"}'


def ask(url: str, image: bytes, budget_ms: float, *, strict: bool) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/classify",
        params={"latency_budget_ms": budget_ms, "strict": strict},
        content=image,
        headers={"content-type": "image/png"},
        timeout=60,
    )


def test_a_large_image_is_not_decoded_for_a_budget_that_decoding_uses_up(
    model: ServedModel,
) -> None:
    with live(model) as url:
        fresh = ask(url, LARGE, 20, strict=True)
        assert (fresh.status_code, samples(url)[NUM_DECODED]) == (503, 0)
        (complaint,) = fresh.json()["errors"]
        assert complaint["field"] == "latency_budget_ms"
        assert complaint["detail"].endswith(" ms are left for it before exit 1")

        late = ask(url, LARGE, 20, strict=False)
        assert (late.status_code, samples(url)[NUM_DECODED]) == (200, 1)
        assert late.json()["budget"]["met"] is False

        assert ask(url, LARGE, 20, strict=True).status_code == 503
        said = samples(url)
        assert (said[NUM_DECODED], said[REFUSED], said["offramp_in_flight"]) == (1, 2, 0)
        assert ask(url, LARGE, 60_000, strict=True).status_code == 200


def test_the_limit_on_pixels_goes_before(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # the app sets it
    with live(model, max_image_pixels=1_000_000) as url:
        assert ask(url, LARGE, 300, strict=True).status_code == 413


@pytest.mark.parametrize("strict", [True, False])
def test_small_images_are_answered_as_before(strict: bool, model: ServedModel) -> None:
    with live(model) as url:
        small = encoded(Image.new("L", (8, 8)))
        assert ask(url, small, 10_000, strict=strict).status_code == 200
