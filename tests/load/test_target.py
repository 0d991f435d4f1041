from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from load.generator import Body
from load.target import ask_once, header, route
from models.bundle.errors import UserError


@contextmanager
def answering(status: int, said: bytes) -> Iterator[str]:
    """The URL of a server that gives one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(said)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join()


def test_the_route_takes_the_budget() -> None:
    assert route("http://a:1", None) == "http://a:1/v1/classify"
    assert route("http://a:1/?model=x", 25) == "http://a:1/v1/classify?model=x&latency_budget_ms=25"
    assert route("http://a/other", 2.5) == "http://a/other?latency_budget_ms=2.5"
    assert route("http://a/b c?x=%20é&y=[1]", None) == "http://a/b%20c?x=%20%C3%A9&y=[1]"
    for url in ("https://a", "http://[::1", "http://a:x", "http://a:70000", "http://:80"):
        with pytest.raises(UserError, match="is not an http:// URL"):
            route(url, None)


def test_a_header_has_a_name_and_a_value() -> None:
    assert header("Authorization: Bearer a:b") == ("Authorization", "Bearer a:b")
    assert header("X-Empty:") == ("X-Empty", "")
    for text in ("Bearer", ": value", "Authorization: Bearer ключ", "X-A: 1\nX-B: 2"):
        with pytest.raises(UserError, match="is not a header"):
            header(text)


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (200, b"ok", "answers with something else than a JSON object"),
        (200, b"[1]", "answers with something else than a JSON object"),
        (404, b"no", "answers 404: no"),
        (422, b'{"detail": "bad"}', "answers 422: bad"),
        (400, b'{"error": "worse"}', "answers 400: worse"),
    ],
)
def test_what_no_run_can_use_is_said_before(status: int, said: bytes, message: str) -> None:
    with answering(status, said) as url, pytest.raises(UserError, match=message):
        ask_once(url, Body(b"", "image/png"), [])
