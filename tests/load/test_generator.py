import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

import pytest

from load.cli import load
from load.generator import Body, Client
from models.bundle.errors import UserError


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6


def test_a_server_may_have_an_ipv6_address() -> None:
    try:
        server = Server(("::1", 0), Answering)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        client = Client(f"http://[::1]:{server.server_port}/", [Body(b'{"exit": 2}', "text/plain")])
        client.open_loop([0.0, 0.01])
        server.shutdown()
        thread.join()
    assert [shot.answer for shot in client.shots()] == [{"exit": 2}] * 2


def test_a_server_that_stops_answering_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("load.generator.LAST_ANSWERS_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        client = Client(url, [Body(b"text", "text/plain")])
        client.closed_loop(2, 0.1)
    assert [shot.status for shot in client.shots()] == [0, 0]


def test_as_many_connections_are_open_as_the_system_allows(tmp_path: Path) -> None:
    soft, most = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (most - 1, most))
    try:
        with pytest.raises(UserError, match="holds neither"):
            load(["http://127.0.0.1:9"], tmp_path, [1.0], None, 1.0, 1, 1, [], None)
        assert getrlimit(RLIMIT_NOFILE) == (most, most)
    finally:
        setrlimit(RLIMIT_NOFILE, (soft, most))
