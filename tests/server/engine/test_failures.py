"""What fails inside: graphs that raise or say no number, workers that die or get stuck."""

import asyncio
import threading
import time
from itertools import pairwise

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

from models.bundle.bundle import Bundle
from models.bundle.policy import Policy, StopReason
from server.engine import breaker
from server.engine.breaker import Breaker
from server.engine.compute import guarded
from server.engine.job import Budget, Outcome
from server.engine.queues import Step
from server.errors import GraphFailed, NoAnswer, Unavailable
from server.telemetry.metrics import Metrics
from server.zoo.catalog import ServedModel
from tests.server.engines import (
    UNCONSULTED,
    failing,
    numberless,
    only,
    outcomes,
    results_of,
    running,
    tampered,
)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"offramp_{name}", labels)


def test_breaker_opens_after_three_failures_in_a_row_and_tries_again_later() -> None:
    a_breaker = Breaker()
    for now in (1.0, 2.0):
        a_breaker.failed(now)
    assert not a_breaker.is_open(2.0)
    a_breaker.succeeded()
    for now in (3.0, 4.0):
        a_breaker.failed(now)
    assert not a_breaker.is_open(4.0), "not in a row"
    a_breaker.failed(5.0)
    assert a_breaker.is_open(5.0)
    assert a_breaker.is_open(9.9)
    assert not a_breaker.is_open(10.0)
    a_breaker.failed(10.5)
    assert a_breaker.is_open(15.4), "one more failure opens it again"
    a_breaker.succeeded()
    assert not a_breaker.is_open(15.4)


def test_failing_segment_answers_from_the_exit_before(digits_bundle: Bundle) -> None:
    outcome = only(outcomes(failing(digits_bundle, (3, False))))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 2)
    assert len(outcome.answers) == 2
    outcome = only(outcomes(failing(digits_bundle, (2, False)), UNCONSULTED))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 1)


def test_failing_first_segment_is_an_error(digits_bundle: Bundle) -> None:
    (error,) = outcomes(failing(digits_bundle, (1, False)))
    assert isinstance(error, NoAnswer)
    assert str(error) == "segment 1 of digits failed"


def test_failing_exit_head_is_passed_by(digits_bundle: Bundle) -> None:
    outcome = only(outcomes(failing(digits_bundle, (2, True))))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.FINAL, 3)
    assert [said.exit for said in outcome.answers] == [1, 3]


def test_failing_exit_head_where_an_answer_is_due(digits_bundle: Bundle) -> None:
    must_stop = Policy((1.0, 1.0, None), min_exit=1, max_exit=2)
    outcome = only(outcomes(failing(digits_bundle, (2, True)), must_stop))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 1)
    (error,) = outcomes(failing(digits_bundle, (1, True), (2, True)), must_stop)
    assert isinstance(error, NoAnswer)
    (error,) = outcomes(failing(digits_bundle, (2, False), (1, True)), UNCONSULTED)
    assert isinstance(error, NoAnswer), "neither a second segment nor a first head"


def test_an_exit_head_that_says_no_number_has_failed(digits_bundle: Bundle) -> None:
    metrics = Metrics()
    outcome = only(outcomes(numberless(digits_bundle, 1), metrics=metrics))
    assert [said.exit for said in outcome.answers] == [2, 3]
    assert value(metrics, "segment_failures_total", model="digits", exit="1") == 1
    outcome = only(outcomes(numberless(digits_bundle, 3)))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 2)
    assert np.isfinite(outcome.answer.probabilities).all()
    (error,) = outcomes(numberless(digits_bundle, 1, 2, 3))
    assert isinstance(error, NoAnswer)


def test_a_segment_that_keeps_failing_is_used_no_more_until_it_works_again(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_broken, tries = True, 0

    def hinder(exit: int, is_head: bool) -> None:
        nonlocal tries
        if exit == 3 and not is_head:
            tries += 1
            if is_broken:
                raise RuntimeError("made to fail")

    async def run() -> list[tuple[StopReason, int]]:
        nonlocal is_broken
        found = []
        async with running(metrics=metrics) as engine:
            for _ in range(6):
                outcome = only(await results_of(engine, model))
                found.append((outcome.stop_reason, outcome.answer.exit))
            assert tries == breaker.MAX_FAILURES
            assert value(metrics, "segment_disabled", model="digits", exit="3") == 1
            assert engine.is_working()
            is_broken = False
            model.breakers[3, False].retry_at = 0.0
            outcome = only(await results_of(engine, model))
            found.append((outcome.stop_reason, outcome.answer.exit))
        return found

    model, metrics = tampered(digits_bundle, hinder), Metrics()
    metrics.model_loaded(model)
    metrics.default_is(model)
    *degraded, last = asyncio.run(run())
    assert degraded == [(StopReason.DEGRADED, 2)] * 6
    assert last == (StopReason.FINAL, 3)
    assert value(metrics, "segment_failures_total", model="digits", exit="3") == 3
    assert value(metrics, "segment_disabled", model="digits", exit="3") == 0


def test_a_first_segment_that_keeps_failing_refuses_newcomers(digits_bundle: Bundle) -> None:
    async def run() -> None:
        model = failing(digits_bundle, (1, False))
        async with running() as engine:
            for _ in range(breaker.MAX_FAILURES):
                (error,) = await results_of(engine, model)
                assert isinstance(error, NoAnswer)
            with pytest.raises(Unavailable, match=r"^digits fails at its first segment$"):
                await results_of(engine, model)
            assert engine.in_flight() == 0

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_replaced_and_its_job_answers(digits_bundle: Bundle) -> None:
    class Deadly(BaseException):
        """What no handler expects."""

    lives = 1

    def die_once(exit: int, is_head: bool) -> None:
        nonlocal lives
        if exit == 2 and lives:
            lives -= 1
            raise Deadly

    async def run() -> tuple[Outcome, Outcome, bool]:
        async with running(metrics=metrics) as engine:
            first = only(await results_of(engine, model))
            second = only(await results_of(engine, model))
            return first, second, engine.is_working()

    model, metrics = tampered(digits_bundle, die_once), Metrics()
    first, second, is_working = asyncio.run(run())
    assert (first.stop_reason, first.answer.exit) == (StopReason.DEGRADED, 1)
    assert (second.stop_reason, second.answer.exit) == (StopReason.FINAL, 3)
    assert is_working
    assert value(metrics, "worker_restarts_total") == 1


def test_a_worker_that_is_stuck_is_replaced_and_what_it_gives_later_is_dropped(
    digits_bundle: Bundle,
) -> None:
    release, threads = threading.Event(), []

    def get_stuck(exit: int, is_head: bool) -> None:
        threads.append(threading.current_thread())
        if exit == 2 and len(threads) == 3:
            release.wait()

    async def run() -> tuple[Outcome, Outcome, int]:
        async with running(metrics=metrics, stall_s=0.1) as engine:
            stuck = asyncio.ensure_future(results_of(engine, model))
            await asyncio.sleep(0.3)
            assert not engine.is_working()
            first = only(await stuck)
            assert engine.is_working()
            second = only(await results_of(engine, model))
            release.set()
            threads[0].join()
            return first, second, engine.in_flight()

    model, metrics = tampered(digits_bundle, get_stuck), Metrics()
    first, second, in_flight = asyncio.run(run())
    assert (first.stop_reason, first.answer.exit) == (StopReason.DEGRADED, 1)
    assert len(first.answers) == 1
    assert (second.stop_reason, second.answer.exit) == (StopReason.FINAL, 3)
    assert in_flight == 0
    assert value(metrics, "worker_restarts_total") == 1


def test_a_stuck_worker_does_not_keep_the_process_from_ending(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.engine.STOP_S", 0.1)
    stuck, release, threads = threading.Event(), threading.Event(), list[threading.Thread]()

    def get_stuck(exit: int, is_head: bool) -> None:
        threads.append(threading.current_thread())
        stuck.set()
        release.wait()

    async def run() -> float:
        async with running() as engine:
            asked = asyncio.ensure_future(results_of(engine, model))
            await asyncio.to_thread(stuck.wait, 10)
            start = time.monotonic()
        stopped_after_s = time.monotonic() - start
        release.set()
        assert only(await asked).answer.exit == 3
        return stopped_after_s

    model = tampered(digits_bundle, get_stuck)
    assert 0.1 <= asyncio.run(run()) < 2
    assert threads[0].daemon, "Python waits for no such thread"


def test_a_stuck_first_segment_is_an_error_in_the_end(digits_bundle: Bundle) -> None:
    release = threading.Event()

    async def run() -> Exception | Outcome:
        async with running(stall_s=0.1) as engine:
            (result,) = await results_of(engine, model, budget=Budget(0.05))
            release.set()
            return result

    model = tampered(digits_bundle, lambda *_: wait_for(release))
    assert isinstance(asyncio.run(run()), NoAnswer)


def wait_for(event: threading.Event) -> None:
    event.wait()


def test_a_run_that_is_told_to_end_ends_and_is_no_failure(model: ServedModel) -> None:
    session = ort.InferenceSession(slow_graph().SerializeToString())
    options, x = ort.RunOptions(), np.eye(400, dtype=np.float32)
    start = time.monotonic()
    session.run(None, {"x": x}, options)
    whole_s = time.monotonic() - start
    timer = threading.Timer(whole_s / 10, lambda: setattr(options, "terminate", True))
    timer.start()
    start = time.monotonic()
    with pytest.raises(GraphFailed), guarded(Step(model, 1), options):
        session.run(None, {"x": x}, options)
    assert time.monotonic() - start < whole_s / 2
    assert model.breakers[1, False].num_failures == 0


def slow_graph() -> ModelProto:
    """Many large products in a row."""
    names = ["x", *(f"y{i}" for i in range(400))]
    nodes = [helper.make_node("MatMul", [a, "x"], [b]) for a, b in pairwise(names)]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "slow",
        [tensor("x", TensorProto.FLOAT, [400, 400])],
        [tensor(names[-1], TensorProto.FLOAT, [400, 400])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
