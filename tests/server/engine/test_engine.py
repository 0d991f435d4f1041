"""The real engine with real lanes; only costs and delays are made."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from models.bundle.bundle import Bundle
from models.bundle.confidence import Measure
from models.bundle.policy import Policy, StopReason, policy_of_threshold
from models.bundle.runner import Arrays
from server.engine.compute import gather
from server.engine.engine import Engine
from server.engine.job import Answer, Budget, Demand, Given, Job, Outcome, Row
from server.engine.model import ServedModel
from server.engine.scheduler import Batch
from server.engine.verdict import judge
from server.errors import Draining
from server.running import Result, Results
from server.telemetry.answers import is_depth_limited
from server.telemetry.ledger import later
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import trace_segments
from tests.server.conftest import made_profile, served
from tests.server.engines import (
    ANY,
    IMAGES,
    LONG_S,
    NEVER,
    UNCONSULTED,
    only,
    outcomes,
    results_of,
    running,
    submit,
    tampered,
)


@pytest.mark.parametrize("per_row_s", [0.0, LONG_S])
def test_batched_answers_equal_single_ones(digits_bundle: Bundle, per_row_s: float) -> None:
    model = served(digits_bundle, made_profile(per_row_s))
    together = outcomes(model, rows=20)
    for row, outcome in enumerate(together):
        assert isinstance(outcome, Outcome)
        features: Arrays = [IMAGES[row : row + 1]]
        for exit in (1, 2, 3):
            features = model.runner.run_segment(exit, features)
        expected = model.runner.run_head(3, features).argmax()
        assert outcome.answer.exit == 3
        assert outcome.answer.probabilities.argmax() == expected
        assert [said.exit for said in outcome.answers] == [1, 2, 3]


def test_head_runs_only_where_its_answer_may_be_used(model: ServedModel) -> None:
    policy = Policy((None, 1.0, None), min_exit=1, max_exit=3)
    assert [said.exit for said in only(outcomes(model, policy)).answers] == [2, 3]
    policy = Policy((None, None, None), min_exit=1, max_exit=2)
    outcome = only(outcomes(model, policy))
    assert [said.exit for said in outcome.answers] == [2]
    assert outcome.stop_reason is StopReason.EXIT_LIMIT


def test_thresholds_and_answers_are_of_the_bundles_measure_of_confidence(
    digits_bundle: Bundle,
) -> None:
    """A threshold between an image's margin at exit 1 and its largest probability there."""
    found: dict[Measure, Outcome] = {}
    for measure in get_args(Measure):
        fitted = digits_bundle.calibration.model_copy(update={"confidence": measure})
        model = served(replace(digits_bundle, calibration=fitted), made_profile(0.0))
        if not found:
            first, *_ = only(outcomes(model)).answers
            second, largest = np.sort(first.probabilities)[-2:].tolist()
        policy = policy_of_threshold(largest - second / 2, 3)
        found[measure] = only(outcomes(model, policy))
    by_largest, by_margin = found["max_probability"], found["margin"]
    assert (by_largest.stop_reason, by_largest.answer.exit) == (StopReason.CONFIDENT, 1)
    assert by_largest.answer.confidence == largest
    assert by_margin.answers[0].exit == 1
    assert by_margin.answers[0].confidence == pytest.approx(largest - second)
    assert by_margin.answer.exit > 1


def test_deadline_stops_before_a_segment_that_does_not_fit(digits_bundle: Bundle) -> None:
    model = served(digits_bundle, made_profile(per_row_s=10.0))
    outcome = only(outcomes(model, budget=Budget(latency_s=15.0)))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEADLINE, 1)
    outcome = only(outcomes(model, budget=Budget(latency_s=60.0)))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.FINAL, 3)


def test_energy_stops_before_a_segment_that_does_not_fit(digits_bundle: Bundle) -> None:
    model = served(digits_bundle, made_profile(per_row_s=1.0, watts=8.0))
    outcome = only(outcomes(model, budget=Budget(energy_j=15.0)))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.ENERGY, 1)
    outcome = only(outcomes(model, budget=Budget(energy_j=17.0)))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.FINAL, 3)


def test_an_outcome_is_sent_before_the_next_batch_runs(digits_bundle: Bundle) -> None:
    """The first of two rows ends at exit 1; the other has not run by then."""
    events: list[str] = []

    def ran(exit: int, is_head: bool) -> None:
        events.append(f"{'head' if is_head else 'segment'} {exit}")

    async def run() -> None:
        model, loop = tampered(digits_bundle, ran), asyncio.get_running_loop()
        ended = loop.create_future()
        now = time.monotonic()
        first = Demand(model, Policy((1.0, 1.0, None), min_exit=1, max_exit=1), Budget(), now)
        second = Demand(model, NEVER, Budget(), now)
        async with running() as engine:
            submit(
                engine,
                Job(first, Given.of(IMAGES[0]), lambda _: loop.call_soon(events.append, "sent")),
            )
            submit(engine, Job(second, Given.of(IMAGES[1]), ended.set_result))
            await ended

    asyncio.run(run())
    other = [f"{what} {exit}" for exit in (1, 2, 3) for what in ("segment", "head")]
    assert events == ["segment 1", "head 1", "sent", *other]


class Miscounting(Metrics):
    """Metrics that raise whenever a batch is counted."""

    @later
    def batch_ran(self, *_: object) -> None:
        raise RuntimeError("made to fail")


def test_an_answer_outlives_its_count(model: ServedModel) -> None:
    results = outcomes(model, rows=8, metrics=Miscounting())
    assert [r.stop_reason for r in results if isinstance(r, Outcome)] == [StopReason.FINAL] * 8


def test_outcome_accounts_for_what_ran(model: ServedModel) -> None:
    outcome = only(outcomes(model))
    manifest = model.manifest
    assert outcome.macs == sum(g.macs for g in (*manifest.segments, *manifest.exit_heads))
    assert len(outcome.runs) == 3
    assert outcome.compute_s >= sum(run.seconds for run in outcome.runs)
    assert outcome.energy_j == pytest.approx(8.0 * outcome.compute_s)


def test_gather_joins_rows_and_copies_none_that_lie_together() -> None:
    batch: Arrays = [np.arange(10.0).reshape(5, 2), np.arange(5.0).reshape(5, 1)]
    other: Arrays = [np.full((1, 2), -1.0), np.full((1, 1), -2.0)]
    for indices in ([3], [0, 1, 2, 3, 4], [1, 2]):
        first, second = gather([Row(batch, index) for index in indices])
        np.testing.assert_array_equal(first, batch[0][indices])
        np.testing.assert_array_equal(second, batch[1][indices])
        assert np.shares_memory(first, batch[0])
    for indices in ([0, 2], [2, 1]):
        first, second = gather([Row(batch, index) for index in indices])
        np.testing.assert_array_equal(first, batch[0][indices])
        np.testing.assert_array_equal(second, batch[1][indices])
    first, second = gather([Row(batch, 1), Row(other, 0), Row(batch, 0), Row(batch, 3)])
    np.testing.assert_array_equal(first, [[2, 3], [-1, -1], [0, 1], [6, 7]])
    np.testing.assert_array_equal(second, [[1], [-2], [0], [3]])


def sleepy(bundle: Bundle, slow_exit: int, sleep_s: float) -> ServedModel:
    """A model on thread lanes, whose segment `slow_exit` sleeps unexpectedly."""

    def sleep(exit: int, is_head: bool) -> None:
        if exit == slow_exit and not is_head:
            time.sleep(sleep_s)

    return tampered(bundle, sleep, per_row_s=LONG_S)


class Deliveries:
    """What was delivered, and how many seconds after the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.ends: list[float] = []
        self.results: list[Outcome | Exception] = []

    def __call__(self, result: Outcome | Exception) -> None:
        self.ends.append(time.monotonic() - self.start)
        self.results.append(result)


async def one_running_one_waiting(
    bundle: Bundle, then: Callable[[Engine, Job], None]
) -> tuple[Deliveries, int]:
    """The only lane sleeps over one job while another, answered once, waits for its second exit.

    Returns the deliveries, and how many slots were taken at the end.
    """
    model = sleepy(bundle, slow_exit=3, sleep_s=0.5)
    deliveries = Deliveries()
    async with running() as engine:
        first = Job(
            Demand(model, UNCONSULTED, Budget(0.1), deliveries.start),
            Given.of(IMAGES[0]),
            deliveries,
        )
        submit(engine, first)
        async with asyncio.timeout(5):  # a starved host ends the first job before its exit 2
            while first.exit < 2 or engine.queue_depth():
                await asyncio.sleep(0.001)
        second = Job(
            Demand(model, NEVER, Budget(0.2), deliveries.start), Given.of(IMAGES[1]), deliveries
        )
        second.exit = 1
        second.features = Row(model.runner.run_segment(1, second.features.arrays), 0)
        second.answers.append(Answer(1, np.full(10, 0.1, np.float32), 0.1, deliveries.start))
        submit(engine, second)
        then(engine, second)
        while time.monotonic() - deliveries.start < 0.8:
            await asyncio.sleep(0.01)
        return deliveries, engine.in_flight()


def test_a_job_with_an_answer_does_not_wait_for_a_lane_to_give_it(digits_bundle: Bundle) -> None:
    deliveries, in_flight = asyncio.run(one_running_one_waiting(digits_bundle, lambda *_: None))
    waiting, asleep = deliveries.results
    assert isinstance(waiting, Outcome)
    assert (waiting.answer.exit, waiting.stop_reason) == (1, StopReason.DEADLINE)
    assert 0.15 < deliveries.ends[0] < 0.2 + 0.1, "in time, while the lane sleeps until 0.5 s"
    assert isinstance(asleep, Outcome)
    assert deliveries.ends[1] > 0.45, "it had no answer before its third exit"
    assert in_flight == 0


def test_a_job_with_an_answer_does_not_wait_for_its_own_segment_to_end(
    digits_bundle: Bundle,
) -> None:
    async def run() -> tuple[Deliveries, Job, int]:
        model = sleepy(digits_bundle, slow_exit=2, sleep_s=0.5)
        deliveries = Deliveries()
        async with running() as engine:
            job = Job(
                Demand(model, NEVER, Budget(0.2), deliveries.start), Given.of(IMAGES[0]), deliveries
            )
            submit(engine, job)
            await asyncio.sleep(0.4)
            in_flight = engine.in_flight()
        return deliveries, job, in_flight

    deliveries, job, in_flight = asyncio.run(run())
    outcome = only(deliveries.results)
    assert (outcome.answer.exit, outcome.stop_reason) == (1, StopReason.DEADLINE)
    assert 0.15 < deliveries.ends[0] < 0.2 + 0.1, "in time, while its segment sleeps until 0.5 s"
    assert in_flight == 0, "its slot is free before its segment ends"
    assert len(job.answers) == 1, "what comes after is not looked at"
    assert len(outcome.runs) == len(job.runs) == 1, "nor is it traced"


def test_in_a_hurry_a_job_with_an_answer_gets_it_at_once(digits_bundle: Bundle) -> None:
    deliveries, in_flight = asyncio.run(
        one_running_one_waiting(digits_bundle, lambda engine, _: engine.hurry())
    )
    waiting, _ = deliveries.results
    assert isinstance(waiting, Outcome)
    assert (waiting.answer.exit, waiting.stop_reason) == (1, StopReason.DEADLINE)
    assert deliveries.ends[0] < 0.15, "before its own deadline, while the lane sleeps until 0.5 s"
    assert in_flight == 0


def test_in_a_hurry_no_job_goes_on_to_another_segment(digits_bundle: Bundle) -> None:
    async def run() -> Deliveries:
        model, deliveries = sleepy(digits_bundle, slow_exit=1, sleep_s=0.1), Deliveries()
        async with running() as engine:
            demand = Demand(model, NEVER, Budget(), time.monotonic())
            for image in IMAGES[:3]:
                submit(engine, Job(demand, Given.of(image), deliveries))
            await asyncio.sleep(0.02)
            engine.hurry()
            while len(deliveries.results) < 3:
                await asyncio.sleep(0.01)
        return deliveries

    outcomes = asyncio.run(run()).results
    assert [isinstance(o, Outcome) and (o.answer.exit, o.stop_reason) for o in outcomes] == [
        (1, StopReason.DEADLINE)
    ] * 3


def test_in_a_hurry_jobs_that_come_later_hurry_too(model: ServedModel) -> None:
    """Their images were still being decoded, or their bodies read."""

    async def run() -> list[Result]:
        results = Results(1)
        async with running() as engine:
            engine.hurry()
            asked = await results_of(engine, model)
            demand = Demand(model, NEVER, ANY, time.monotonic(), is_background=True)
            submit(engine, Job(demand, Given.of(IMAGES[0]), partial(results.settle, 0)))
            return asked + await results.all

    outcome, refused = asyncio.run(run())
    assert isinstance(outcome, Outcome)
    assert (outcome.answer.exit, outcome.stop_reason) == (1, StopReason.DEADLINE)
    assert isinstance(refused, Draining)


def test_in_a_hurry_background_jobs_answer_or_are_refused(digits_bundle: Bundle) -> None:
    async def run() -> tuple[list[Result], int]:
        model, results = sleepy(digits_bundle, slow_exit=2, sleep_s=0.3), Results(4)
        demand = Demand(model, NEVER, ANY, time.monotonic(), is_background=True)
        jobs = [
            Job(demand, Given.of(image), partial(results.settle, number))
            for number, image in enumerate(IMAGES[:4])
        ]
        async with running() as engine:
            submit(engine, *jobs[:3])
            while not all(job.answers for job in jobs[:3]):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)  # the first of them is in the segment that sleeps
            submit(engine, jobs[3])
            engine.hurry()
            return await asyncio.wait_for(results.all, 0.2), engine.admission.num_background

    (*answered, refused), num_left = asyncio.run(run())
    assert [isinstance(o, Outcome) and (o.answer.exit, o.stop_reason) for o in answered] == [
        (1, StopReason.DEADLINE)
    ] * 3
    assert isinstance(refused, Draining)
    assert num_left == 0


def test_a_cancelled_job_frees_its_slot_and_is_never_delivered(digits_bundle: Bundle) -> None:
    def cancel(engine: Engine, job: Job) -> None:
        assert engine.in_flight() == 2
        engine.cancel([job])
        assert engine.in_flight() == 1
        engine.cancel([job])
        assert engine.in_flight() == 1

    deliveries, in_flight = asyncio.run(one_running_one_waiting(digits_bundle, cancel))
    assert len(deliveries.results) == 1
    assert in_flight == 0


def test_a_job_cancelled_while_its_segment_runs_goes_no_further(digits_bundle: Bundle) -> None:
    async def run() -> tuple[Deliveries, Job, int]:
        model, deliveries = sleepy(digits_bundle, slow_exit=1, sleep_s=0.15), Deliveries()
        async with running() as engine:
            job = Job(
                Demand(model, UNCONSULTED, Budget(), time.monotonic()),
                Given.of(IMAGES[0]),
                deliveries,
            )
            submit(engine, job)
            await asyncio.sleep(0.05)
            engine.cancel([job])
            in_flight = engine.in_flight()
            await asyncio.sleep(0.3)
        return deliveries, job, in_flight

    deliveries, job, in_flight = asyncio.run(run())
    assert (deliveries.results, in_flight) == ([], 0)
    assert job.exit <= 1
    assert job.answers == []


def test_progress_tells_every_answer_before_the_outcome(model: ServedModel) -> None:
    async def run() -> list[Answer | Outcome | Exception]:
        told: list[Answer | Outcome | Exception] = []
        end = asyncio.Event()

        def deliver(result: Outcome | Exception) -> None:
            told.append(result)
            end.set()

        async with running() as engine:
            demand = Demand(model, NEVER, Budget(), time.monotonic())
            job = Job(demand, Given.of(IMAGES[0]), deliver, told.append)
            submit(engine, job)
            await end.wait()
        return told

    *answers, outcome = asyncio.run(run())
    assert isinstance(outcome, Outcome)
    assert tuple(answers) == outcome.answers
    assert [said.exit for said in outcome.answers] == [1, 2, 3]


def test_a_head_that_turns_out_to_be_needed_runs_alone(digits_bundle: Bundle) -> None:
    """Exit 2 is not consulted, and was expected to leave time for exit 3."""
    ran: list[tuple[int, bool]] = []

    def sleep(exit: int, is_head: bool) -> None:
        ran.append((exit, is_head))
        if (exit, is_head) == (2, False):
            time.sleep(0.3)

    model, metrics = tampered(digits_bundle, sleep, LONG_S), Metrics()
    outcome = only(outcomes(model, UNCONSULTED, Budget(0.25), metrics=metrics))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEADLINE, 2)
    assert ran == [(1, False), (2, False), (2, True)]
    assert [len(outcome.runs), len(outcome.answers)] == [2, 1]
    labels = {"model": "digits", "exit": "2"}
    value = metrics.registry.get_sample_value
    assert value("offramp_segment_duration_seconds_count", labels) == 1
    assert value("offramp_confidence_count", labels) == 1


@pytest.mark.parametrize(
    ("expected_s", "budget_j"),
    [(0.1, 1.8), (LONG_S, 0.6)],  # 0.8 J of segment 1 are foreseen, and leave too little; or not
)
def test_energy_is_the_reason_where_a_head_has_not_been_consulted(
    digits_bundle: Bundle, expected_s: float, budget_j: float
) -> None:
    ran: list[tuple[int, bool]] = []

    def work(exit: int, is_head: bool) -> None:
        ran.append((exit, is_head))
        end_s = time.thread_time() + 0.1
        while not is_head and time.thread_time() < end_s:
            pass

    model = tampered(digits_bundle, work, expected_s)
    budget = Budget(energy_j=budget_j)
    outcome = only(outcomes(model, UNCONSULTED, budget))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.ENERGY, 1)
    assert ran == [(1, False), (1, True)]
    assert not is_depth_limited(model, budget, outcome, 1.0)


def test_a_survivor_of_a_batch_pays_for_its_next_answer_alone(model: ServedModel) -> None:
    """In four rows an answer takes 32 mJ of each, alone 80 mJ."""
    policy, budget = policy_of_threshold(0.5, 3), Budget(energy_j=0.05)
    jobs = [Job(Demand(model, policy, budget, 0.0), Given.of(image), print) for image in IMAGES[:4]]
    for job, confidence in zip(jobs, (0.4, 0.9, 0.9, 0.9), strict=True):
        job.exit = 1
        job.answers.append(Answer(1, np.zeros(10, np.float32), confidence, 0.0))
    verdict = judge(Batch(model.step(1), jobs, 0.0, 0.0), set(jobs), 0.0)
    confident = [(job, StopReason.CONFIDENT) for job in jobs[1:]]
    assert verdict.ended == [*confident, (jobs[0], StopReason.ENERGY)]
    for job in jobs:
        job.answers[-1].confidence = 0.4
    assert judge(Batch(model.step(1), jobs, 0.0, 0.0), set(jobs), 0.0).going_on == jobs


def test_an_answer_that_is_overdue_is_never_of_before_it_was_known(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a budget a job is due by default; here while its first segment still runs."""
    monkeypatch.setattr("server.engine.admission.DEFAULT_DEADLINE_S", 0.02)
    monkeypatch.setattr("server.engine.admission.PATIENCE", 0.0)
    outcome = only(outcomes(sleepy(digits_bundle, slow_exit=1, sleep_s=0.1)))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEADLINE, 1)
    assert outcome.ended_at >= outcome.answer.at_s


@pytest.mark.parametrize("is_background", [False, True])
def test_waits_are_learned_except_from_background_requests(
    model: ServedModel, *, is_background: bool
) -> None:
    async def run() -> float:
        async with running() as engine:
            arrival, lag_s = time.monotonic() - 0.01, 0.01
            asked = Demand(model, NEVER, Budget(), arrival, lag_s, is_background=is_background)
            engine.admit(asked, 1)
            return engine.pace.unseen_s

    assert (asyncio.run(run()) > 0) is not is_background


def test_no_request_has_waited_unread_while_only_a_thread_was_busy(digits_bundle: Bundle) -> None:
    async def run() -> float:
        loop, waited_s = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        model = sleepy(digits_bundle, slow_exit=1, sleep_s=0.1)

        def read_another(_: object) -> None:
            loop.call_soon(lambda: waited_s.set_result(engine.waited_s(time.monotonic())))

        async with running() as engine:
            demand = Demand(model, NEVER, Budget(0.01), time.monotonic())
            submit(engine, Job(demand, Given.of(IMAGES[0]), read_another))
            return float(await waited_s)

    assert asyncio.run(run()) < 0.05


def test_finished_answers_can_be_traced_while_their_segments_end(digits_bundle: Bundle) -> None:
    """However many segments a job began: its outcome has those that had ended."""

    async def run() -> list[Outcome | Exception]:
        async with running() as engine:
            return await results_of(engine, model, NEVER, Budget(0.2), rows=4)

    model = sleepy(digits_bundle, slow_exit=2, sleep_s=0.4)
    found = asyncio.run(run())
    span = TracerProvider().get_tracer("test").start_span("request")
    with trace.use_span(span):
        assert trace.get_current_span().is_recording()
        trace_segments([only([result]) for result in found])
    for result in found:
        assert [run.ended_at <= only([result]).ended_at for run in only([result]).runs] == [True]
