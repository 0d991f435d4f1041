"""Several server processes behind one port: they count, load and end as one server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from benchmarks.process import ROOT, ServerProcess, free_port, resident_mib, serving, started
from models.bundle.bundle import Bundle
from server.telemetry.ledger import SETTLE_S
from tests.bundles import answer_always, copied
from tests.server.live import PNG, samples, until

HEADERS = {"content-type": "image/png"}
LIMIT_S = 60
ANSWERED = 'offramp_inferences_total{model="digits",outcome="answered"}'
RESTARTS = "offramp_process_restarts_total"
SETTLED_S = 1.0
"""After this every answer is counted, SETTLE_S late, also on a busy machine."""
COUNTED_S = 2 * SETTLE_S
"""Before a process is killed: what it answered earlier is counted."""


@pytest.fixture(scope="module")
def server(digits_zoo: Path) -> Iterator[ServerProcess]:
    """For tests that leave it as it was, but for what was counted and replaced."""
    with serving(digits_zoo, processes=2, stall_s=2, profile_s=0.2) as server:
        yield server


def ask(url: str) -> int:
    """On a connection of its own."""
    path = f"{url}/v1/classify?model=digits"
    return httpx.post(path, content=PNG, headers=HEADERS, timeout=LIMIT_S).status_code


def members(server: ServerProcess) -> list[int]:
    pid = server.process.pid
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def until_replaced(server: ServerProcess, num_before: float) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        said = samples(server.url)
        if said[RESTARTS] > num_before and said["offramp_processes"] == 2:
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing was replaced:\n{server.log.read_text()}")


def num_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_s(pids: list[int]) -> float:
    """What the processes have used so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(ticks) for row in fields for ticks in row[11:13]) / os.sysconf("SC_CLK_TCK")


def num_sockets(pid: int) -> int:
    links = (os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd"))
    return sum(link.startswith("socket:") for link in links)


def test_counts_add_up_over_processes(server: ServerProcess) -> None:
    before = samples(server.url)[ANSWERED]
    assert [ask(server.url) for _ in range(20)] == [200] * 20
    time.sleep(SETTLED_S)
    assert {samples(server.url)[ANSWERED] - before for _ in range(6)} == {20}
    said = httpx.get(f"{server.url}/v2/models/digits/stats").json()["model_stats"][0]
    assert said["inference_count"] == before + 20
    assert said["inference_stats"]["success"]["count"] == before + 20
    assert samples(server.url)["offramp_processes"] == 2


def test_what_the_processes_use_is_summed_with_the_parent(server: ServerProcess) -> None:
    pids = [server.process.pid, *members(server)]
    said = samples(server.url)
    resident = sum(map(resident_mib, pids)) * 2**20
    assert said["process_resident_memory_bytes"] == pytest.approx(resident, rel=0.02)
    smallest = min(map(resident_mib, pids)) * 2**20  # the parent's, which has no models
    assert smallest > 0.04 * resident, "or a sum without it would pass"
    assert said["process_open_fds"] == pytest.approx(sum(map(num_files, pids)), abs=8)
    assert said["process_cpu_seconds_total"] >= cpu_s(pids) - 1


def test_connections_are_spread_evenly(server: ServerProcess) -> None:
    before = [num_sockets(pid) for pid in members(server)]
    with ExitStack() as stack:
        for _ in range(32):
            client = stack.enter_context(httpx.Client())
            assert client.get(f"{server.url}/healthz").status_code == 200
        after = [num_sockets(pid) for pid in members(server)]
    gained = [new - old for new, old in zip(after, before, strict=True)]
    assert sum(gained) == 32
    assert max(gained) - min(gained) <= 2


def test_no_count_is_lost_with_a_process_that_is_killed(server: ServerProcess) -> None:
    before = samples(server.url)

    def ask_often(_: int) -> list[float]:
        """When each request was answered."""
        answered = []
        with httpx.Client(timeout=LIMIT_S) as client:
            for _ in range(100):
                try:
                    path = f"{server.url}/v1/classify?model=digits"
                    said = client.post(path, content=PNG, headers=HEADERS)
                    assert said.status_code == 200
                    answered.append(time.monotonic())
                except httpx.TransportError:  # a request of the process that was killed
                    time.sleep(0.01)
        return answered

    with ThreadPoolExecutor(4) as pool:
        clients = pool.map(ask_often, range(4))
        until(lambda: samples(server.url)[ANSWERED] > before[ANSWERED] + 20)
        killed_at = time.monotonic()
        os.kill(members(server)[0], signal.SIGKILL)
        answered_at = [at for client in clients for at in client]
    until_replaced(server, before[RESTARTS])
    time.sleep(SETTLED_S)
    counted = samples(server.url)[ANSWERED] - before[ANSWERED]
    num_answered = len(answered_at)
    latest = sum(abs(at - killed_at) < COUNTED_S for at in answered_at)
    assert counted <= num_answered + 4, "answers may be on their way when their process ends"
    assert counted >= num_answered - latest, "only what was answered just before is not counted yet"
    assert num_answered - latest >= 200


def test_a_process_that_hangs_is_replaced(server: ServerProcess) -> None:
    before = samples(server.url)[RESTARTS]
    os.kill(members(server)[1], signal.SIGSTOP)
    time.sleep(1.5)  # by now it is known to be silent: new connections go to the other
    assert [ask(server.url) for _ in range(10)] == [200] * 10
    until_replaced(server, before)
    assert "hangs" in server.log.read_text()


def test_a_process_that_is_told_to_end_alone_is_replaced(server: ServerProcess) -> None:
    before = samples(server.url)[RESTARTS]
    os.kill(members(server)[0], signal.SIGTERM)
    until_replaced(server, before)
    assert {ask(server.url) for _ in range(4)} == {200}


def test_a_file_where_the_server_is_started_is_no_module_of_its_processes(
    digits_zoo: Path, tmp_path: Path
) -> None:
    (tmp_path / "server.py").write_text("raise SystemExit(9)")
    port = free_port()
    settings = {"zoo": digits_zoo, "processes": 2, "profile_s": 0.2, "cache": os.devnull}
    environment = {f"OFFRAMP_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-P", "-m", "offramp", "serve", "--port", str(port)]
    environment["PYTHONPATH"] = str(ROOT)  # as if it was installed
    with started(command, port, environment, directory=tmp_path) as server:
        assert ask(server.url) == 200


def test_a_process_that_cannot_start_again_is_tried_until_it_can(
    digits_zoo: Path, tmp_path: Path
) -> None:
    zoo, away = tmp_path / "zoo", tmp_path / "away"
    shutil.copytree(digits_zoo, zoo)
    with serving(zoo, processes=2, profile_s=0.2) as server:
        zoo.rename(away)
        os.kill(members(server)[1], signal.SIGKILL)
        until(lambda: "before it was ready; it is replaced in 0.2 s" in server.log.read_text())
        assert {ask(server.url) for _ in range(4)} == {200}
        away.rename(zoo)
        until_replaced(server, 1)
        assert {ask(server.url) for _ in range(4)} == {200}


def test_what_is_asked_of_one_process_happens_in_all(digits_bundle: Bundle, tmp_path: Path) -> None:
    copied(digits_bundle.path, tmp_path, "digits", 1, lambda path: answer_always(path, 3))
    with serving(tmp_path, processes=2, profile_s=0.2) as server:

        def labels() -> set[int]:
            """What four connections in a row are answered."""
            path = f"{server.url}/v1/classify"
            return {
                httpx.post(path, content=PNG, headers=HEADERS).json()["index"] for _ in range(4)
            }

        def manage(what: str) -> int:
            path = f"{server.url}/v2/repository/models/digits/{what}"
            return httpx.post(path, timeout=LIMIT_S).status_code

        assert labels() == {3}
        copied(digits_bundle.path, tmp_path, "digits", 1, lambda path: answer_always(path, 7))
        assert manage("load") == 200
        assert labels() == {7}
        assert manage("unload") == 200
        assert {ask(server.url) for _ in range(4)} == {503}
        os.kill(members(server)[1], signal.SIGKILL)
        until_replaced(server, 0)
        assert {ask(server.url) for _ in range(4)} == {503}, "it begins as the others are"
        (entry,) = httpx.post(f"{server.url}/v2/repository/index").json()
        assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", "unloaded")
        assert manage("load") == 200
        assert labels() == {7}
        refused = httpx.post(f"{server.url}/v2/repository/models/letters/load")
        assert refused.status_code == 404
        (tmp_path / "digits/1/exit_1.onnx").write_bytes(b"")
        refused = httpx.post(f"{server.url}/v2/repository/models/digits/load")
        assert "exit_1.onnx is damaged" in refused.json()["error"]
        assert labels() == {7}


def test_a_zoo_is_followed_in_all_processes(digits_bundle: Bundle, tmp_path: Path) -> None:
    copied(digits_bundle.path, tmp_path, "digits", 1)
    with serving(tmp_path, processes=2, profile_s=0.2, watch_interval_s=0.2) as server:
        copied(digits_bundle.path, tmp_path, "digits", 2)
        listed = f"{server.url}/v2/models/digits"
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            found = [httpx.get(listed).json()["versions"] for _ in range(4)]
            if found == [["1", "2"]] * 4:
                return
        raise AssertionError(found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_all_drain_and_the_status_is_0(
    digits_zoo: Path, number: signal.Signals
) -> None:
    with serving(digits_zoo, processes=2, drain_delay_s=1, profile_s=0.2) as server:
        pids = members(server)
        server.process.send_signal(number)
        until(lambda: {httpx.get(f"{server.url}/readyz").status_code for _ in range(4)} == {503})
        assert server.process.wait(LIMIT_S) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_second_signal_forces_all(digits_zoo: Path) -> None:
    with serving(digits_zoo, processes=2, drain_delay_s=60, profile_s=0.2) as server:
        server.process.terminate()
        until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        server.process.terminate()
        assert server.process.wait(LIMIT_S) == 128 + signal.SIGTERM


def test_none_outlives_the_first(digits_zoo: Path) -> None:
    with serving(digits_zoo, processes=2, profile_s=0.2) as server:
        pids = members(server)
        server.process.kill()
        until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    """A process that has ended stays listed until its parent reads its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def refused(*arguments: str) -> str:
    """What a server that cannot start says."""
    command = [sys.executable, "-m", "offramp", "serve", "--processes", "2", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_what_stops_one_stops_all_and_is_said_once(tmp_path: Path) -> None:
    said = refused("--zoo", str(tmp_path), "--port", "0")
    assert said.count(f"error: {tmp_path} holds no bundle") == 1


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(digits_zoo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--zoo", str(digits_zoo), "--port", str(port))
    assert said.splitlines() == [
        f"error: cannot listen on 127.0.0.1 port {port}: Address already in use;"
        " --port takes another"
    ]


def test_a_port_that_another_server_takes_meanwhile_ends_all(digits_zoo: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        options = ["--zoo", str(digits_zoo), "--port", str(other.getsockname()[1])]
        command = [sys.executable, "-m", "offramp", "serve", "--processes", "2", *options]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "loading" in process.stderr.readline()
            other.listen()
            said = process.stderr.read()
            assert process.wait(LIMIT_S) == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: cannot listen on http://127.0.0.1:")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("host", "families"), [("::", "46"), ("[::1]", "6"), ("localhost", "4")])
def test_every_address_of_the_host_answers(
    digits_zoo: Path, processes: int, host: str, families: str
) -> None:
    port = free_port()
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    command = [sys.executable, "-m", "offramp", "serve", "--host", host, "--port", str(port)]
    options = ["--zoo", str(digits_zoo), "--processes", str(processes), "--profile-s", "0.2"]
    with subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        lines = map(json.loads, process.stderr)
        assert any(line["message"].startswith("listening on") for line in lines)
        for family, address in (("4", "127.0.0.1"), ("6", "[::1]")):
            if family in families:
                assert httpx.get(f"http://{address}:{port}/healthz").status_code == 200
        process.terminate()
        process.stderr.close()
        assert process.wait(LIMIT_S) == 0
