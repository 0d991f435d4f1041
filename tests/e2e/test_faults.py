"""Faults at the edge that have no test elsewhere; docs/faults.md lists them all.

After each the server is alive, its next answer is right, and its counts agree.
"""

import io
import json
import os
import random
import re
import resource
import shutil
import socket
import string
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from benchmarks.process import ROOT, ServerProcess, wait_until_ready
from tests.conftest import Serve
from tests.e2e import v2
from tests.e2e.v2.conftest import IMAGE
from tests.images import encoded, png_chunk
from tests.server.live import PNG, connect, request, samples, sums, until

HEADERS = {"content-type": "image/png"}
PATH = "/v1/classify?threshold=1"
NUM_CLIENTS = 32


@pytest.fixture(scope="module")
def server(serve: Serve, digits_zoo: Path) -> Iterator[ServerProcess]:
    with serve(digits_zoo, receive_timeout_s=2) as process:
        yield process


@pytest.fixture
def url(server: ServerProcess) -> Iterator[str]:
    """Where the server is; afterwards it is as it was before."""
    said = ask(server.url)
    before = samples(server.url)
    yield server.url
    assert server.process.poll() is None
    assert ask(server.url) == said
    until(lambda: samples(server.url)["offramp_in_flight"] == 0)
    after = samples(server.url)
    assert after["offramp_queue_depth"] == 0
    grown = {series: after[series] - before.get(series, 0) for series in after}
    assert sums(grown, "offramp_exits_total") == sums(grown, "offramp_inferences_total") >= 1
    assert sums(after, 'outcome="failed"') == 0
    assert "Traceback" not in server.log.read_text()


def ask(url: str) -> tuple[str, int]:
    said = httpx.post(f"{url}{PATH}", content=PNG, headers=HEADERS).json()
    return said["label"], said["exit"]


def exchange(url: str, sent: bytes) -> bytes:
    """All that comes back before the server closes the connection or falls silent."""
    received = b""
    with connect(url) as client:
        client.settimeout(1)
        client.sendall(sent)
        try:
            while part := client.recv(65_536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
    return received


def statuses(received: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def test_f2_a_bomb_is_refused_by_its_header(url: str) -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1_000_000)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    bomb = PNG[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)
    said = httpx.post(f"{url}{PATH}", content=bomb, headers=HEADERS)
    assert said.status_code == 413


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "ICO", "PPM", "TGA", "EPS"])
def test_f3_other_formats_are_not_decoded(url: str, kind: str) -> None:
    other = encoded(Image.new("L", (16, 16)), kind)
    assert httpx.post(f"{url}{PATH}", content=other, headers=HEADERS).status_code == 400


FITS = b"".join(
    card.ljust(80)
    for card in (
        b"SIMPLE  =                    T",
        b"BITPIX  =                    8",
        b"NAXIS   =                    2",
        b"NAXIS1  =                    8",
        b"NAXIS2  =                    8",
        b"END",
    )
).ljust(2880) + bytes(2880)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><script>1</script></svg>'


@pytest.mark.parametrize("other", [FITS, SVG], ids=["FITS", "SVG"])
def test_f3_formats_that_pillow_does_not_write_are_not_decoded(url: str, other: bytes) -> None:
    assert httpx.post(f"{url}{PATH}", content=other, headers=HEADERS).status_code == 400


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_f3_every_kind_of_pixel_is_converted(url: str, mode: str) -> None:
    image = encoded(Image.new(mode, (9, 5)))
    assert httpx.post(f"{url}{PATH}", content=image, headers=HEADERS).status_code == 200


def test_f3_cmyk_is_converted(url: str) -> None:
    image = encoded(Image.new("CMYK", (9, 5)), "JPEG")
    assert httpx.post(f"{url}{PATH}", content=image, headers=HEADERS).status_code == 200


def test_f3_of_an_animation_the_first_frame_is_classified(url: str) -> None:
    shades = [Image.new("L", (8, 8), shade) for shade in (0, 128, 255)]
    animation = io.BytesIO()
    shades[0].save(animation, "PNG", save_all=True, append_images=shades[1:])
    first, still = (
        httpx.post(f"{url}{PATH}", content=content, headers=HEADERS).json()
        for content in (animation.getvalue(), encoded(shades[0]))
    )
    assert first["confidence"] == pytest.approx(still["confidence"], abs=1e-6)


@pytest.mark.parametrize("budget", ["1e12", "1e300", "5e-324"])
def test_f9_extreme_budgets_are_budgets(url: str, budget: str) -> None:
    query = f"latency_budget_ms={budget}&energy_budget_mj={budget}"
    assert httpx.post(f"{url}{PATH}&{query}", content=PNG, headers=HEADERS).status_code == 200


@pytest.mark.not_in_image
def test_f13_after_a_kill_the_next_start_serves(
    serve: Serve, digits_zoo: Path, tmp_path: Path
) -> None:
    with serve(digits_zoo, cache=tmp_path) as first:
        said = ask(first.url)
        first.process.kill()
        first.process.wait(10)
    (costs,) = tmp_path.iterdir()
    kept = costs.read_bytes()
    with serve(digits_zoo, cache=tmp_path) as second:
        assert ask(second.url) == said
        assert sums(samples(second.url), "offramp_inferences_total") == 1
    assert costs.read_bytes() == kept, "what was measured is read again"
    costs.write_bytes(kept[: len(kept) // 2])
    with serve(digits_zoo, cache=tmp_path) as third:
        assert ask(third.url) == said
    assert json.loads(costs.read_bytes())["hardware"] == json.loads(kept)["hardware"]


NAMES = ("../digits", "..", "/etc/passwd", "%2e%2e", "digits\0", "d" * 300, "d\u0456gits", "1/..")


@pytest.mark.parametrize("name", NAMES)
def test_f17_names_are_never_paths(url: str, name: str) -> None:
    said = httpx.get(f"{url}/v1/models/{quote(name, safe='')}")
    assert said.status_code == 404
    said = httpx.post(f"{url}{PATH}", params={"model": name}, content=PNG, headers=HEADERS)
    assert said.status_code == 404


def test_f25_no_request_makes_a_series(url: str) -> None:
    exchange(url, b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n")
    generator = random.Random(0)
    with httpx.Client(base_url=url) as client:
        send_strange(client, "x")
        before = samples(url).keys()
        for _ in range(50):
            send_strange(client, "".join(generator.choices(string.ascii_letters, k=8)))
    assert samples(url).keys() == before


def send_strange(client: httpx.Client, word: str) -> None:
    """Requests with this word wherever a client may write one."""
    client.get(f"/{word}")
    client.get(f"/v1/models/{word}")
    client.request("PURGE", f"/{word}", headers={"x-request-id": word})
    client.post(f"/v1/classify?model={word}", content=PNG, headers=HEADERS)
    client.get(f"/v2/{word}")
    client.get(f"/v2/models/{word}")
    client.get(f"/v2/models/digits/versions/{word}")
    client.post(f"/v2/models/{word}/infer", json=v2.request(IMAGE))
    client.post(f"/v2/repository/models/{word}/load")
    client.post(f"/v2/repository/models/{word}/unload")


PROBES = ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")


def test_f26_probes_are_answered_while_every_slot_is_taken(serve: Serve, digits_zoo: Path) -> None:
    body = [("image", PNG)] * 64
    with (
        serve(digits_zoo, max_in_flight=64, max_requests=4) as server,
        httpx.Client(base_url=server.url, timeout=20) as client,
    ):

        def flood(_: int) -> int:
            return httpx.post(f"{server.url}{PATH}", files=body, timeout=60).status_code

        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            codes = [pool.submit(flood, number) for number in range(4 * NUM_CLIENTS)]
            while not all(code.done() for code in codes):
                for path in PROBES:
                    assert client.get(path).status_code == 200
        assert {code.result() for code in codes} <= {200, 503}
        assert sums(samples(server.url), "offramp_shed_total") > 0


def test_f28_a_port_in_use_is_said_so(digits_zoo: Path, server: ServerProcess) -> None:
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "-m", "offramp", "serve", "--zoo", str(digits_zoo), "--port", port]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_f28_files_are_read_at_start_only(serve: Serve, digits_zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_zoo, tmp_path / "zoo")
    with serve(tmp_path / "zoo") as server:
        said = ask(server.url)
        shutil.rmtree(tmp_path / "zoo")
        assert ask(server.url) == said


@pytest.mark.not_in_image
def test_f28_connections_beyond_the_files_that_may_be_open(serve: Serve, digits_zoo: Path) -> None:
    with serve(digits_zoo, profile_s=0.2) as server:
        said, pid = ask(server.url), server.process.pid

        def num_files() -> int:
            return len(os.listdir(f"/proc/{pid}/fd"))

        num_idle = num_files()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
        held = [connect(server.url) for _ in range(100)]
        until(lambda: num_files() >= 63)
        for client in held:
            client.close()
        until(lambda: num_files() <= num_idle)
        assert ask(server.url) == said
        assert httpx.get(f"{server.url}/readyz").status_code == 200


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /healthz HTTP/1.1\r\nX-Request-ID: a\r\n b\r\n\r\n", {200, 400}),
        (b"GET /healthz HTTP/1.1\r\nX-Request-ID: a\rSet-Cookie: b\r\n\r\n", {200, 400}),
        (b"GET /healthz HTTP/1.1\r\nX-Request-ID: a\0b\r\n\r\n", {200, 400}),
        (b"GET /\r\nSet-Cookie:b HTTP/1.1\r\n\r\n", {200, 400}),
        (b"GET /v1/models/a%0d%0aSet-Cookie:%20b HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    ],
)
def test_f30_no_header_gets_into_an_answer(url: str, sent: bytes, expected: set[int]) -> None:
    received = exchange(url, sent)
    assert set(statuses(received)) <= expected
    assert b"set-cookie" not in received.partition(b"\r\n\r\n")[0].lower()


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (request("/healthz", b"0\r\n\r\n" + GET, 5, CHUNKED.decode()), [400]),
        (request("/healthz", b"", 5, "Content-Length: 6\r\n"), [400]),
        (request("/healthz", b"", 0).replace(b"Length: 0", b"Length: -1"), [400]),
        (request("/healthz", b"", 0).replace(b"Length: 0", b"Length: 1 2"), [400]),
        (b"POST /healthz HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", [400]),
        (b"POST /healthz HTTP/1.1\r\n" + CHUNKED + b"\r\nffffffffffffffffff\r\n", [400]),
        (b"GET /healthz HTTP/9.9\r\n\r\n", [400]),
        (b"GET /healthz HTTP/1.0\r\n\r\n", [200]),
        (b"GET http://elsewhere/healthz HTTP/1.1\r\nHost: x\r\n\r\n", [200]),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
        (b"\x00\x01\x02\r\n\r\n", [400]),
        (GET * 3, [200, 200, 200]),
        (request(PATH) + GET + request(PATH), [200, 200, 200]),
    ],
)
def test_f31_shapes_that_smuggle(url: str, sent: bytes, expected: list[int]) -> None:
    assert statuses(exchange(url, sent)) == expected


def test_f33_no_metric_is_no_number(url: str) -> None:
    assert "NaN" not in httpx.get(f"{url}/metrics").text


def test_f38_nobody_needs_to_read_the_metrics(url: str) -> None:
    with connect(url) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ask(url)


def test_the_first_answer_of_all_is_that_the_server_is_ready(server: ServerProcess) -> None:  # C3
    """The fixture asks for /readyz from the start: before this no port was open."""
    lines = map(json.loads, server.log.read_text().splitlines())
    first = next(line for line in lines if line["logger"] == "offramp.access")
    assert (first["route"], first["code"]) == ("/readyz", 200)


def test_the_log_is_json_lines(server: ServerProcess) -> None:
    wait_until_ready(server)
    assert all(line.startswith('{"time":"') for line in server.log.read_text().splitlines())
