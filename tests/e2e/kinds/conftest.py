"""One server with models of texts, of rows of numbers and of images."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from benchmarks.process import ServerProcess
from benchmarks.small_bundles import write_row_bundle, write_tensor_bundle, write_text_bundle
from models.bundle.bundle import Bundle
from tests.bundles import copied
from tests.conftest import Serve
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
