"""A real server with two versions of a model, and what its errors have in common.

C numbers in these tests are the conformance checks they pass.
"""

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from models.bundle.bundle import Bundle
from tests.bundles import copied
from tests.conftest import Serve
from tests.e2e import v2
from tests.server.live import check_counts

MAX_BODY_BYTES = 100_000
MAX_IMAGES = 32
NAMES = ["probabilities", "label", "exit", "confidence", "stop_reason"]
INFER = "/v2/models/digits/infer"
EVERY_EXIT = {"threshold": 1.0}
IMAGE = np.zeros((1, 8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def client(
    serve: Serve, digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    zoo = tmp_path_factory.mktemp("versions")
    for version in (1, 2):
        copied(digits_bundle.path, zoo, "digits", version)
    limits = {"max_body_bytes": MAX_BODY_BYTES, "max_images": MAX_IMAGES, "profile_s": 0.5}
    with serve(zoo, **limits) as server, httpx.Client(base_url=server.url) as session:
        yield session


def ask(client: httpx.Client) -> tuple[str, int]:
    asked = v2.request(IMAGE, parameters=EVERY_EXIT)
    said = v2.outputs(client.post(INFER, json=asked))
    return said["label"][0], said["exit"][0]


@pytest.fixture(scope="module")
def right(client: httpx.Client) -> tuple[str, int]:
    return ask(client)


@pytest.fixture(autouse=True)
def still_serves(client: httpx.Client, right: tuple[str, int]) -> Iterator[None]:
    yield
    assert ask(client) == right
    check_counts(client)


def refused(said: httpx.Response, status: int = 400) -> str:
    """What the error says; under /v2 every one has the same form (C9)."""
    assert said.status_code == status, said.text
    assert said.headers["content-type"] == "application/json"
    error = said.json()
    assert list(error) == ["error"]
    text: str = error["error"]
    assert text
    assert "Traceback" not in text
    return text
