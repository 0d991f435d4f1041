"""The Dockerfile against what it relies on: settings, routes, and the lock file."""

import json
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from benchmarks.process import ROOT
from server.http.probes import router
from server.settings import PREFIX, variables

DOCKERFILE = (ROOT / "Dockerfile").read_text()
FINAL_STAGE = DOCKERFILE.rpartition("FROM ")[2]


def test_environment_names_only_known_settings() -> None:
    named = set(re.findall(rf"^\s+{PREFIX}(\w+)=", FINAL_STAGE, re.MULTILINE))
    assert named == {"CACHE", "ZOO", "HOST", "PORT"}
    assert {f"{PREFIX}{name}" for name in named} <= variables().keys()


def test_base_is_pinned() -> None:
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-bookworm$", DOCKERFILE, re.MULTILINE)


def test_runs_as_a_fixed_user_that_is_not_root() -> None:
    assert re.findall(r"^USER (.+)$", FINAL_STAGE, re.MULTILINE) == ["10001:10001"]


def test_final_stage_runs_nothing_and_copies_only_the_environment_and_the_zoo() -> None:
    assert "\nRUN " not in FINAL_STAGE
    copied = re.findall(r"^COPY (.+)$", FINAL_STAGE, re.MULTILINE)
    assert copied == ["--from=build /opt/venv /opt/venv", "models/zoo /zoo"]


def test_asks_for_a_route_that_exists() -> None:
    (path,) = re.findall(r"OFFRAMP_PORT\\\"\]\}(/\w+)", FINAL_STAGE)
    assert path == "/readyz"
    assert path in {getattr(route, "path", None) for route in router.routes}


def test_health_check_asks_the_server_and_no_proxy() -> None:
    (command,) = re.findall(r"^HEALTHCHECK .+?CMD (.+?\])$", FINAL_STAGE, re.MULTILINE | re.DOTALL)
    _, *arguments = json.loads(command.replace("\\\n", ""))
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = {"OFFRAMP_PORT": str(server.server_port), "HTTP_PROXY": "http://127.0.0.1:1"}
        environment["http_proxy"] = environment["HTTP_PROXY"]
        said = subprocess.run([sys.executable, *arguments], env=environment, check=False)
        server.shutdown()
    assert said.returncode == 0


class Ready(BaseHTTPRequestHandler):
    """A server that is ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()


def test_command_is_executed_without_a_shell() -> None:
    assert FINAL_STAGE.endswith('CMD ["offramp", "serve"]\n')


def test_lock_file_has_hashes_and_no_torch() -> None:
    text = (ROOT / "requirements/serve.txt").read_text()
    locked = re.findall(r"^([\w.\[\]-]+==\S+) \\\n    --hash=sha256:", text, re.MULTILINE)
    names = {line.partition("==")[0] for line in locked}
    assert {"onnxruntime", "fastapi", "uvicorn"} <= names
    assert names & {"torch", "scikit-learn", "datasets"} == set()
    assert len(locked) == len(re.findall(r"^[^\s#]", text, re.MULTILINE))
