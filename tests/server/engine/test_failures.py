"""What fails inside: graphs that raise or say no number, lanes that die or hang."""

import asyncio
import threading
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

from models.bundle.bundle import Bundle
from models.bundle.policy import Policy, StopReason
from models.bundle.runner import Arrays, SegmentRunner
from server.engine import breaker
from server.engine.breaker import Breaker
from server.engine.job import Budget, Demand, Given, Job, Outcome
from server.engine.lanes import Lanes
from server.engine.model import ServedModel
from server.errors import NoAnswer, Unavailable
from server.telemetry.metrics import Metrics
from tests.server.conftest import made_profile, served
from tests.server.engines import (
    IMAGES,
    LONG_S,
    NEVER,
    UNCONSULTED,
    failing,
    numberless,
    only,
    outcomes,
    results_of,
    running,
    submit,
    tampered,
)


class Deadly(BaseException):
    """An error that no handler expects."""


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


@pytest.mark.parametrize("per_row_s", [0.0, LONG_S])
def test_failing_segment_answers_from_the_exit_before(
    digits_bundle: Bundle, per_row_s: float
) -> None:
    outcome = only(outcomes(failing(digits_bundle, (3, False), per_row_s=per_row_s)))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 2)
    assert len(outcome.answers) == 2
    outcome = only(outcomes(failing(digits_bundle, (2, False), per_row_s=per_row_s), UNCONSULTED))
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


def test_a_row_whose_logits_are_no_numbers_fails_no_other_row(digits_bundle: Bundle) -> None:
    """Its own numbers may have overflowed: that says nothing about the graph."""
    metrics = Metrics()
    model = numberless(digits_bundle, 2, 3, rows=slice(1))
    bad, *good = outcomes(model, rows=3, metrics=metrics)
    assert isinstance(bad, Outcome)
    assert (bad.stop_reason, bad.answer.exit) == (StopReason.DEGRADED, 1)
    for outcome in good:
        assert isinstance(outcome, Outcome)
        assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.FINAL, 3)
        assert [said.exit for said in outcome.answers] == [1, 2, 3]
    assert not value(metrics, "segment_failures_total", model="digits", exit="3")
    assert value(metrics, "confidence_count", model="digits", exit="3") == 2
    assert not np.isnan(value(metrics, "confidence_sum", model="digits", exit="3") or np.nan)


def test_rows_whose_logits_are_no_numbers_take_no_head_out_of_use(digits_bundle: Bundle) -> None:
    model = numberless(digits_bundle, 3, rows=slice(1))

    async def run() -> None:
        async with running() as engine:
            for _ in range(2 * breaker.MAX_FAILURES):
                outcome = only(await results_of(engine, model))
                assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 2)
            *_, good = await results_of(engine, model, rows=2)
            assert isinstance(good, Outcome)
            assert good.stop_reason is StopReason.FINAL

    asyncio.run(run())


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
            assert value(metrics, "segment_disabled", model="digits", exit="3") == 1, "untried"
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
            with pytest.raises(Unavailable, match=r"^segment 1 of digits is out of use$"):
                await results_of(engine, model)
            assert engine.in_flight() == 0

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lane_that_dies_is_replaced_and_its_job_answers(digits_bundle: Bundle) -> None:
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

    model, metrics = tampered(digits_bundle, die_once, LONG_S), Metrics()
    first, second, is_working = asyncio.run(run())
    assert (first.stop_reason, first.answer.exit) == (StopReason.DEGRADED, 1)
    assert (second.stop_reason, second.answer.exit) == (StopReason.FINAL, 3)
    assert is_working
    assert value(metrics, "worker_restarts_total") == 1


def test_a_lane_that_hangs_is_replaced_and_what_it_gives_later_is_dropped(
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
            threads[0].join(10)
            assert not threads[0].is_alive(), "a lane that is given up ends once it comes back"
            return first, second, engine.in_flight()

    model, metrics = tampered(digits_bundle, get_stuck, LONG_S), Metrics()
    first, second, in_flight = asyncio.run(run())
    assert (first.stop_reason, first.answer.exit) == (StopReason.DEGRADED, 1)
    assert len(first.answers) == 1
    assert (second.stop_reason, second.answer.exit) == (StopReason.FINAL, 3)
    assert in_flight == 0
    assert value(metrics, "worker_restarts_total") == 1


def test_a_stuck_lane_does_not_keep_the_process_from_ending(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.engine.STOP_S", 0.1)
    stuck, release, threads = threading.Event(), threading.Event(), list[threading.Thread]()

    def get_stuck(exit: int, is_head: bool) -> None:
        threads.append(threading.current_thread())
        stuck.set()
        release.wait()

    async def run() -> None:
        async with running() as engine:
            asked = asyncio.ensure_future(results_of(engine, model))
            await asyncio.to_thread(stuck.wait, 10)
        asked.cancel()

    model = tampered(digits_bundle, get_stuck, LONG_S)
    asyncio.run(run())
    assert threads[0].is_alive(), "the engine has stopped without it"
    assert threads[0].daemon, "Python waits for no such thread"
    release.set()
    threads[0].join(10)
    assert not threads[0].is_alive(), "and it ends quietly, without an event loop"


def test_a_stuck_first_segment_is_an_error_in_the_end(digits_bundle: Bundle) -> None:
    release = threading.Event()

    async def run() -> Exception | Outcome:
        async with running(stall_s=0.1) as engine:
            (result,) = await results_of(engine, model, budget=Budget(0.05))
            release.set()
            return result

    model = tampered(digits_bundle, lambda *_: wait_for(release), LONG_S)
    assert isinstance(asyncio.run(run()), NoAnswer)


def wait_for(event: threading.Event) -> None:
    event.wait()


class Slow(SegmentRunner):
    """Runs a graph that takes a second or more before segment 2."""

    def run_segment(
        self, exit: int, features: Arrays, options: ort.RunOptions | None = None
    ) -> Arrays:
        if exit == 2:
            session = ort.InferenceSession(slow_graph().SerializeToString())
            session.run(None, {"x": np.eye(400, dtype=np.float32)}, options)
        return super().run_segment(exit, features, options)


def slow(bundle: Bundle, per_row_s: float) -> ServedModel:
    manifest = bundle.manifest
    runner = Slow(manifest.segments, manifest.exit_heads, bundle.graphs)
    return replace(served(bundle, made_profile(per_row_s=per_row_s)), runner=runner)


def test_no_thread_is_lost_right_after_the_process_was_suspended() -> None:
    async def run() -> list[int]:
        lanes = Lanes(2, 1.0, asyncio.get_running_loop())
        num_lost = [len(lanes.replace_lost(0.0))]
        lanes.end(time.monotonic() + 10)  # every thread is gone
        num_lost += [len(lanes.replace_lost(at_s)) for at_s in (600.0, 600.5, 601.0)]
        lanes.end(time.monotonic() + 10)
        return num_lost

    assert asyncio.run(run()) == [0, 0, 2, 0]


def test_a_run_on_the_event_loop_that_passes_its_bound_is_ended(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.lanes.MAX_INLINE_S", 0.05)
    monkeypatch.setattr("server.engine.lanes.WATCH_S", 0.01)
    model, metrics = slow(digits_bundle, per_row_s=0.0), Metrics()
    assert model.step(1).inline_rows > 0
    outcome = only(outcomes(model, metrics=metrics))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 1)
    assert model.breakers[2, False].num_failures == 1
    assert value(metrics, "segment_failures_total", model="digits", exit="2") == 1


def test_a_run_that_no_job_waits_for_is_ended_and_is_no_failure(digits_bundle: Bundle) -> None:
    async def run() -> int:
        async with running(metrics=metrics) as engine:
            job = Job(
                Demand(model, NEVER, Budget(), time.monotonic()), Given.of(IMAGES[0]), told.append
            )
            submit(engine, job)
            while job.exit < 1:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)
            engine.cancel([job])
            other = only(await results_of(engine, model, at_first))
            assert (other.stop_reason, other.answer.exit) == (StopReason.EXIT_LIMIT, 1)
            return engine.in_flight()

    model, metrics, told = slow(digits_bundle, LONG_S), Metrics(), list[Outcome | Exception]()
    at_first = Policy((1.0, 1.0, None), min_exit=1, max_exit=1)
    assert asyncio.run(run()) == 0
    assert told == []
    assert model.breakers[2, False].num_failures == 0
    assert not value(metrics, "segment_failures_total", model="digits", exit="2")


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
