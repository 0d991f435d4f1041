"""Real processes and real signals: what is admitted is answered, and the process ends with 0."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.process import ROOT, ServerProcess
from models.bundle.bundle import Bundle
from server.app import create_app, local_engine
from server.engine.engine import Engine
from server.http.listener import Listener
from server.settings import Settings, load_settings
from server.telemetry.metrics import Metrics
from server.zoo.catalog import Catalog
from tests.bundles import copied
from tests.conftest import Serve
from tests.e2e.test_shipped import BUNDLE as SHIPPED_BUNDLE
from tests.server.conftest import served
from tests.server.http.test_departure import gated
from tests.server.live import PNG, connect, listening, request, until

SHIPPED = ROOT / "models/zoo"
HEADERS = {"content-type": "image/png"}
PATH = "/v1/classify?threshold=1"


def ask(url: str) -> httpx.Response:
    return httpx.post(f"{url}{PATH}", content=PNG, headers=HEADERS, timeout=20)


def access_lines(server: ServerProcess) -> Counter[tuple[str, int]]:
    """How many requests the log says were answered, by route and status."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    return Counter(
        (line["route"], line["code"]) for line in lines if line["logger"] == "offramp.access"
    )


def test_readiness_goes_first_and_work_is_refused(serve: Serve, digits_zoo: Path) -> None:
    with serve(digits_zoo, drain_delay_s=3) as server:
        with httpx.Client(base_url=server.url) as client:
            assert client.post(PATH, content=PNG, headers=HEADERS).status_code == 200
            server.process.terminate()
            while client.get("/readyz").status_code == 200:
                time.sleep(0.01)
            refused = client.post(PATH, content=PNG, headers=HEADERS)
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/v2/health/ready").status_code == 503  # C3
            for path in ("/healthz", "/v2/health/live"):
                assert client.get(path).status_code == 200
            refused = client.post("/v2/models/digits/infer", json={})
            assert refused.status_code == 503
            assert refused.json() == {"error": "the server is ending"}
            assert refused.headers["connection"] == "close"
            shed = 'offramp_shed_total{reason="draining"} 2.0'
            assert shed in client.get("/metrics").text.splitlines()
        assert server.process.wait(20) == 0


@pytest.fixture
def _terminal() -> Iterator[None]:
    """Where a signal that a terminal closed ends what runs in it; nohup ignores that signal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_terminal_that_is_closed_loses_no_request(
    serve: Serve, digits_zoo: Path, processes: int
) -> None:
    whole = request(PATH)
    with serve(digits_zoo, processes=processes) as server, connect(server.url) as client:
        client.sendall(whole[:-10])
        time.sleep(0.2)  # until it is being read: there is nothing to ask
        server.process.send_signal(signal.SIGHUP)
        assert refuses(server.url)
        client.sendall(whole[-10:])
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_on_its_way_is_answered(
    serve: Serve, digits_zoo: Path, number: signal.Signals
) -> None:
    whole = request(PATH, headers="Accept: text/event-stream\r\n")
    with serve(digits_zoo) as server, connect(server.url) as client:
        client.sendall(whole[:-10])
        time.sleep(0.2)  # until it is being read: there is nothing to ask
        server.process.send_signal(number)
        gone = refuses(server.url)
        client.sendall(whole[-10:])
        answer = b""
        while part := client.recv(65_536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert b"event: final" in answer
        assert server.process.wait(20) == 0
        assert gone


def refuses(url: str) -> bool:
    """Waits until no connection is taken any more."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            connect(url).close()
        except ConnectionError:
            return True
        time.sleep(0.02)
    return False


def test_nothing_admitted_is_lost_under_load(serve: Serve, digits_zoo: Path) -> None:
    def until_refused(url: str) -> Counter[int]:
        codes: Counter[int] = Counter()
        while codes[503] == 0:
            codes[ask(url).status_code] += 1
        return codes

    with serve(digits_zoo, drain_delay_s=3) as server:
        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(until_refused, server.url) for _ in range(8)]
            time.sleep(1)
            server.process.terminate()
            codes = sum((client.result() for client in clients), Counter[int]())
        assert server.process.wait(20) == 0
        assert codes.keys() == {200, 503}
        assert codes[200] > 8
        logged = access_lines(server)
        assert {code: logged["/v1/classify", code] for code in codes} == codes


def held(server: ServerProcess) -> socket.socket:
    """A request whose body never becomes whole, so that the server has to wait for it."""
    client = connect(server.url)
    client.sendall(request(PATH, num_bytes=1000))
    time.sleep(0.2)
    return client


def seconds_to_end(server: ServerProcess, act: Callable[[], object]) -> float:
    start = time.monotonic()
    act()
    server.process.wait(30)
    return time.monotonic() - start


def test_the_end_comes_in_a_settable_time(serve: Serve, digits_zoo: Path) -> None:
    with serve(digits_zoo, shutdown_grace_s=1, receive_timeout_s=60) as server, held(server):
        assert 1 < seconds_to_end(server, server.process.terminate) < 15
        assert server.process.returncode == 0


def test_a_job_that_still_runs_then_answers_with_its_last_exit(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=2)
    with listening(model, shutdown_grace_s=1) as (server, url), ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, url)
        until(lambda: runner.num_waiting == 1)
        server.handle_exit(signal.SIGTERM, None)
        said = asked.result()
        runner.gate.set()
    assert (said.status_code, said.headers["connection"]) == (200, "close")
    assert (said.json()["exit"], said.json()["stop_reason"]) == (1, "deadline")


def test_a_signal_while_the_application_starts_ends_it(digits_bundle: Bundle) -> None:
    settings, catalog = load_settings(drain_delay_s=0), Catalog()
    catalog.add(served(digits_bundle, digits_bundle.cost))

    def told_to_end(settings: Settings, metrics: Metrics) -> Engine:
        server.handle_exit(signal.SIGTERM, None)
        return local_engine(settings, metrics)

    app = create_app(settings, catalog, Metrics(), told_to_end)
    server = Listener(app, settings)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server.run([sock])
    assert server.started
    assert app.state.service.gate.is_draining


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_models_that_load_do_not_hold_up_the_end(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "offramp", "serve", "--zoo", str(SHIPPED), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "loading" in process.stderr.readline()
        process.send_signal(number)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(20) == 0


def test_a_load_is_given_up_for_the_end(
    serve: Serve, digits_bundle: Bundle, tmp_path: Path
) -> None:
    copied(digits_bundle.path, tmp_path, "digits", 1)
    with (
        serve(tmp_path, profile_s=1000) as server,
        httpx.Client(base_url=server.url, timeout=20) as client,
        ThreadPoolExecutor() as pool,
    ):
        copied(SHIPPED_BUNDLE, tmp_path, "large", 1)
        load = pool.submit(httpx.post, f"{server.url}/v2/repository/models/large/load", timeout=60)
        until(lambda: "LOADING" in client.post("/v2/repository/index").text)
        server.process.terminate()
        assert load.result().status_code == 503
        assert load.result().json() == {"error": "the server is ending"}
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.log.read_text()


def test_a_second_signal_forces(serve: Serve, digits_zoo: Path) -> None:
    with serve(digits_zoo, shutdown_grace_s=60, receive_timeout_s=60) as server, held(server):
        server.process.terminate()
        assert refuses(server.url)
        assert server.process.poll() is None
        assert seconds_to_end(server, server.process.terminate) < 15
        assert server.process.returncode == 128 + signal.SIGTERM
