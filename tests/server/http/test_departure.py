"""A client that goes away frees its slot before the next segment, and is counted once."""

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle.bundle import Bundle
from server.engine.model import ServedModel
from server.http.decode import Images
from server.v2.requests import read_inference
from tests.e2e import v2
from tests.server.conftest import made_profile, served
from tests.server.live import PATIENCE_S, PNG, Gated, connect, live, request, samples, until

PATH = "/v1/classify?threshold=1"
INFER = "/v2/models/digits/infer"
TENSOR = json.dumps(v2.request(np.zeros((1, 8, 8, 1), np.uint8), parameters={"threshold": 1.0}))
BOTH_PROTOCOLS = pytest.mark.parametrize(
    ("path", "body", "route"),
    [(PATH, PNG, "/v1/classify"), (INFER, TENSOR.encode(), "/v2/models/{name}/infer")],
    ids=["v1", "v2"],
)
SLOW_S = 0.005
"""Of a graph's row: long enough for a thread, so that the event loop stays free."""
ENDINGS = ("answered", "failed", "cancelled")


def gated(bundle: Bundle, exit: int) -> tuple[ServedModel, Gated]:
    runner = Gated(bundle, exit)
    return replace(served(bundle, made_profile(per_row_s=SLOW_S)), runner=runner), runner


def gone(stage: str) -> str:
    return f'offramp_cancelled_total{{stage="{stage}"}}'


def ended(outcome: str) -> str:
    return f'offramp_inferences_total{{model="digits",outcome="{outcome}"}}'


def left(route: str) -> str:
    return f'offramp_requests_total{{code="499",route="{route}"}}'


def segments(exit: int) -> str:
    return f'offramp_segment_duration_seconds_count{{exit="{exit}",model="digits"}}'


def check_answers(url: str) -> None:
    """The server answers as ever, and has counted every image that was admitted once."""
    before = samples(url)
    said = httpx.post(f"{url}{PATH}", content=PNG, headers={"content-type": "image/png"})
    assert (said.status_code, said.json()["exit"]) == (200, 3)
    after = samples(url)
    assert after["offramp_in_flight"] == after["offramp_queue_depth"] == 0
    assert [after[ended(e)] - before[ended(e)] for e in ENDINGS] == [1, 0, 0]


@BOTH_PROTOCOLS
def test_gone_while_a_segment_runs(
    digits_bundle: Bundle, path: str, body: bytes, route: str
) -> None:
    model, runner = gated(digits_bundle, exit=2)
    with live(model, workers=1) as url:
        with connect(url) as client:
            client.sendall(request(path, body))
            until(lambda: runner.num_waiting == 1)
        until(lambda: samples(url)[gone("segment")] == 1)
        runner.gate.set()
        until(lambda: samples(url)["offramp_in_flight"] == 0)
        said = samples(url)
        assert [said[ended(e)] for e in ENDINGS] == [0, 0, 1]
        assert [said[segments(exit)] for exit in (1, 3)] == [1, 0]
        assert said['offramp_stops_total{model="digits",reason="cancelled"}'] == 1
        assert said[left(route)] == 1
        check_answers(url)


def test_a_client_that_closes_its_sending_half_is_taken_for_gone(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=2)
    with live(model, workers=1) as url:
        with connect(url) as client:
            client.sendall(request(PATH))
            until(lambda: runner.num_waiting == 1)
            client.shutdown(socket.SHUT_WR)
            until(lambda: samples(url)[gone("segment")] == 1)
            assert client.recv(1) == b""
        runner.gate.set()
        check_answers(url)


def test_gone_while_queued_frees_the_slot_at_once(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=1)
    with live(model, workers=1) as url:
        with connect(url) as first:
            first.sendall(request(PATH))
            until(lambda: runner.num_waiting == 1)
            with connect(url) as second:
                second.sendall(request(PATH))
                until(lambda: samples(url)["offramp_in_flight"] == 2)
            until(lambda: samples(url)[gone("queue")] == 1)
            assert samples(url)["offramp_in_flight"] == 1, "while the worker still waits"
            runner.gate.set()
            assert first.recv(12) == b"HTTP/1.1 200"
        said = samples(url)
        assert [said[ended(e)] for e in ENDINGS] == [1, 0, 1]
        check_answers(url)


@BOTH_PROTOCOLS
def test_gone_while_decoding(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, path: str, body: bytes, route: str
) -> None:
    decoding, gate = threading.Event(), threading.Event()

    def gated_call(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: object) -> Any:  # noqa: ANN401
            decoding.set()
            assert gate.wait(10)
            return call(*arguments)

        return called

    monkeypatch.setattr(Images, "decode_one", gated_call(Images.decode_one))
    monkeypatch.setattr("server.http.decode.SMALL_BYTES", 0)
    monkeypatch.setattr("server.v2.infer.SMALL_BYTES", 0)
    monkeypatch.setattr("server.v2.infer.read_inference", gated_call(read_inference))
    with live(model) as url:
        with connect(url) as client:
            client.sendall(request(path, body))
            assert decoding.wait(10)
        until(lambda: samples(url)[gone("decode")] == 1)
        gate.set()
        check_answers(url)
        assert samples(url)[left(route)] == 1
        assert samples(url)[segments(1)] == 1, "only of the request after it"


@BOTH_PROTOCOLS
def test_gone_before_the_body_is_whole(
    model: ServedModel, path: str, body: bytes, route: str
) -> None:
    with live(model) as url:
        with connect(url) as client:
            client.sendall(request(path, body, num_bytes=len(body) + 1))
            until(lambda: samples(url)[gone("body")] == 0)
        until(lambda: samples(url)[gone("body")] == 1)
        assert samples(url)[left(route)] == 1
        check_answers(url)


def test_gone_while_the_response_is_compressed(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()

    def deflate_slowly(body: bytes, _: str) -> bytes:
        begun.set()
        assert gate.wait(PATIENCE_S)
        return body

    monkeypatch.setattr("server.v2.infer.deflate", deflate_slowly)
    with live(model) as url:
        with connect(url) as client:
            client.sendall(request(INFER, TENSOR.encode(), headers="Accept-Encoding: gzip\r\n"))
            assert begun.wait(PATIENCE_S)
        until(lambda: samples(url)[gone("response")] == 1)
        gate.set()
        said = samples(url)
        assert (said[ended("answered")], said[left("/v2/models/{name}/infer")]) == (1, 1)
        check_answers(url)


def test_several_images_of_one_request_are_one_departure(digits_bundle: Bundle) -> None:
    model, runner = gated(digits_bundle, exit=1)
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="i"\r\n\r\n%b\r\n' % PNG
    form = request(PATH, part * 5 + b"--x--\r\n").replace(
        b"image/png", b"multipart/form-data; boundary=x"
    )
    with live(model, workers=1) as url:
        with connect(url) as client:
            client.sendall(form)
            until(lambda: runner.num_waiting == 1)
        until(lambda: samples(url)[gone("queue")] == 1)
        runner.gate.set()
        until(lambda: samples(url)["offramp_in_flight"] == 0)
        assert samples(url)[ended("cancelled")] == 5
        check_answers(url)


def test_a_client_that_stays_is_never_taken_for_gone(model: ServedModel) -> None:
    with live(model) as url, httpx.Client() as client:
        for _ in range(50):
            assert client.post(
                f"{url}{PATH}", content=PNG, headers={"content-type": "image/png"}
            ).is_success
        said = samples(url)
        assert sum(v for series, v in said.items() if "offramp_cancelled_total" in series) == 0
        assert said[ended("answered")] == 50
