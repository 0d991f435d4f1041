"""Background requests through the real application: nobody else's time is judged by theirs."""

import httpx
import pytest

from models.bundle.bundle import Bundle
from server.service import Service
from tests.server.conftest import made_profile, served
from tests.server.live import PNG, listening

TYPE = {"content-type": "image/png"}


@pytest.mark.parametrize(("priority", "is_learned"), [("normal", True), ("background", False)])
def test_only_those_in_a_hurry_say_what_a_response_takes(
    digits_bundle: Bundle, priority: str, is_learned: bool
) -> None:
    """Background requests wait for idle time: theirs would make the server refuse others."""
    with listening(served(digits_bundle, made_profile(0.0005))) as (server, url):
        service: Service = server.config.loaded_app.state.service
        pace = service.engine.pace
        before_s = pace.delivery_s
        said = httpx.post(f"{url}/v1/classify?priority={priority}", content=PNG, headers=TYPE)
        assert said.status_code == 200
        assert (pace.delivery_s != before_s) is is_learned
