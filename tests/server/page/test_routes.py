"""The page's files as they are served: headers, tags, nothing inline, off with one setting."""

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.app import create_app
from server.page.routes import DIRECTORY, page_router, read_files
from server.settings import load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog

FILES = sorted(read_files())


@pytest.fixture(scope="module")
def http() -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(page_router())
    with TestClient(app) as client:
        yield client


def routes(**settings: object) -> set[str]:
    app = create_app(load_settings(**settings), Catalog(), Metrics())
    return {getattr(route, "path", "") for route in app.routes}


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_every_file_is_guarded_and_known_again(http: TestClient, path: str) -> None:
    said = http.get(path)
    assert said.status_code == 200
    policy = said.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert said.headers["x-content-type-options"] == "nosniff"
    again = http.get(path, headers={"if-none-match": said.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert http.get(path, headers={"if-none-match": '"other"'}).content == said.content


@pytest.mark.parametrize("name", ["routes.py", "../app.py", "%2e%2e/app.py", "examples", ""])
def test_nothing_else_is_served(http: TestClient, name: str) -> None:
    assert http.get(f"/page/{name}").status_code == 404


def test_the_page_asks_this_server_alone_and_has_nothing_inline(http: TestClient) -> None:
    html = http.get("/").text
    named = re.findall(r'(?:src|href)="([^"#]+)"', html)
    assert {"page/page.js", "page/page.css", "page/icon.svg"} <= set(named)
    for name in set(named) - {"docs", "metrics"}:
        assert http.get(f"/{name}").status_code == 200
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", html)
    for name in FILES:
        if name.endswith((".html", ".js", ".css")):
            text = (DIRECTORY / name).read_text().replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|@import|\burl\(", text), name


def test_one_setting_takes_it_off() -> None:
    assert {"/", "/page/{name:path}"} <= routes()
    assert not {"/", "/page/{name:path}"} & routes(page=False)
