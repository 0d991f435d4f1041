"""The real engine on real threads; only costs and delays are made."""

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest

from models.bundle.bundle import Bundle
from models.bundle.policy import Policy, StopReason
from models.bundle.runner import Arrays
from server.engine.compute import gather
from server.engine.engine import Engine
from server.engine.job import Answer, Budget, Demand, Job, Outcome, Row
from server.telemetry.metrics import Metrics
from server.zoo.catalog import ServedModel
from tests.server.conftest import made_profile, served
from tests.server.engines import IMAGES, NEVER, UNCONSULTED, only, outcomes, running, tampered


def test_batched_answers_equal_single_ones(model: ServedModel) -> None:
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


class Miscounting(Metrics):
    """Metrics that raise whenever a batch is counted."""

    def segment_ran(self, *_: object) -> None:
        raise RuntimeError("made to fail")


def test_an_answer_outlives_its_count(model: ServedModel) -> None:
    results = outcomes(model, rows=8, metrics=Miscounting())
    assert [r.stop_reason for r in results if isinstance(r, Outcome)] == [StopReason.FINAL] * 8


def test_outcome_accounts_for_what_ran(model: ServedModel) -> None:
    outcome = only(outcomes(model))
    manifest = model.manifest
    assert outcome.macs == sum(g.macs for g in (*manifest.segments, *manifest.exit_heads))
    assert len(outcome.segment_s) == 3
    assert outcome.compute_s >= sum(outcome.segment_s)
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
    """A model whose segment `slow_exit` sleeps, unexpectedly."""

    def sleep(exit: int, is_head: bool) -> None:
        if exit == slow_exit and not is_head:
            time.sleep(sleep_s)

    return tampered(bundle, sleep, per_row_s=0.0005)


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
    """The only worker sleeps over one job while another, answered once, waits for its second exit.

    Returns the deliveries, and how many slots were taken at the end.
    """
    model = sleepy(bundle, slow_exit=3, sleep_s=0.5)
    deliveries = Deliveries()
    async with running() as engine:
        first = Job(
            Demand(model, UNCONSULTED, Budget(0.1), deliveries.start), IMAGES[0], deliveries
        )
        engine.submit([first])
        while first.exit < 2 or engine.queue_depth():
            await asyncio.sleep(0.001)
        second = Job(Demand(model, NEVER, Budget(0.2), deliveries.start), IMAGES[1], deliveries)
        second.exit = 1
        second.features = Row(model.runner.run_segment(1, second.features.arrays), 0)
        second.answers.append(Answer(1, np.full(10, 0.1, np.float32), 0.1, deliveries.start))
        engine.submit([second])
        then(engine, second)
        while time.monotonic() - deliveries.start < 0.8:
            await asyncio.sleep(0.01)
        return deliveries, engine.in_flight()


def test_who_has_an_answer_does_not_wait_for_a_worker_to_give_it(digits_bundle: Bundle) -> None:
    deliveries, in_flight = asyncio.run(one_running_one_waiting(digits_bundle, lambda *_: None))
    waiting, asleep = deliveries.results
    assert isinstance(waiting, Outcome)
    assert (waiting.answer.exit, waiting.stop_reason) == (1, StopReason.DEADLINE)
    assert 0.15 < deliveries.ends[0] < 0.2 + 0.1, "in time, while the worker sleeps until 0.5 s"
    assert isinstance(asleep, Outcome)
    assert deliveries.ends[1] > 0.45, "it had no answer before its third exit"
    assert in_flight == 0


def test_who_has_an_answer_does_not_wait_for_its_own_segment_to_end(digits_bundle: Bundle) -> None:
    async def run() -> tuple[Deliveries, Job, int]:
        model = sleepy(digits_bundle, slow_exit=2, sleep_s=0.5)
        deliveries = Deliveries()
        async with running() as engine:
            job = Job(Demand(model, NEVER, Budget(0.2), deliveries.start), IMAGES[0], deliveries)
            engine.submit([job])
            await asyncio.sleep(0.4)
            in_flight = engine.in_flight()
        return deliveries, job, in_flight

    deliveries, job, in_flight = asyncio.run(run())
    outcome = only(deliveries.results)
    assert (outcome.answer.exit, outcome.stop_reason) == (1, StopReason.DEADLINE)
    assert 0.15 < deliveries.ends[0] < 0.2 + 0.1, "in time, while its segment sleeps until 0.5 s"
    assert in_flight == 0, "its slot is free before its segment ends"
    assert len(job.answers) == 1, "what comes after is not looked at"


def test_in_a_hurry_who_has_an_answer_gets_it_at_once(digits_bundle: Bundle) -> None:
    deliveries, in_flight = asyncio.run(
        one_running_one_waiting(digits_bundle, lambda engine, _: engine.hurry())
    )
    waiting, _ = deliveries.results
    assert isinstance(waiting, Outcome)
    assert (waiting.answer.exit, waiting.stop_reason) == (1, StopReason.DEADLINE)
    assert deliveries.ends[0] < 0.15, "before its own deadline, while the worker sleeps until 0.5 s"
    assert in_flight == 0


def test_in_a_hurry_nobody_goes_on_to_another_segment(digits_bundle: Bundle) -> None:
    async def run() -> Deliveries:
        model, deliveries = sleepy(digits_bundle, slow_exit=1, sleep_s=0.1), Deliveries()
        async with running() as engine:
            demand = Demand(model, NEVER, Budget(), time.monotonic())
            for image in IMAGES[:3]:
                engine.submit([Job(demand, image, deliveries)])
            await asyncio.sleep(0.02)
            engine.hurry()
            while len(deliveries.results) < 3:
                await asyncio.sleep(0.01)
        return deliveries

    outcomes = asyncio.run(run()).results
    assert [isinstance(o, Outcome) and (o.answer.exit, o.stop_reason) for o in outcomes] == [
        (1, StopReason.DEADLINE)
    ] * 3


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
            job = Job(Demand(model, UNCONSULTED, Budget(), time.monotonic()), IMAGES[0], deliveries)
            engine.submit([job])
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
            job = Job(demand, IMAGES[0], deliver, told.append)
            engine.submit([job])
            await end.wait()
        return told

    *answers, outcome = asyncio.run(run())
    assert isinstance(outcome, Outcome)
    assert tuple(answers) == outcome.answers
    assert [said.exit for said in outcome.answers] == [1, 2, 3]
