"""The real engine on real threads; only the faults and the costs are made."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from models.bundle.bundle import Bundle
from models.bundle.confidence import Floats
from models.bundle.policy import Policy, StopReason, policy_of_threshold
from models.bundle.runner import Arrays, SegmentRunner
from server.catalog import ServedModel
from server.classify import settle
from server.engine import Engine, gather
from server.errors import SegmentFailed
from server.job import Answer, Budget, Job, Outcome
from server.metrics import Metrics
from server.scheduler import Scheduler
from tests.server.conftest import made_profile, served
from training.data import load_images

IMAGES = load_images("digits", "test").images.numpy()
NEVER = policy_of_threshold(1.0, 3)


def outcomes(
    model: ServedModel,
    policy: Policy = NEVER,
    budget: Budget = Budget(),  # noqa: B008
    rows: int = 1,
    metrics: Metrics | None = None,
) -> list[Outcome | BaseException]:
    """What a fresh engine makes of the first test images."""

    async def run() -> list[Outcome | BaseException]:
        engine = Engine(Scheduler(64, num_workers=2), metrics or Metrics())
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Outcome]] = [loop.create_future() for _ in range(rows)]
        arrival = time.monotonic()
        jobs = [
            Job(model, policy, budget, arrival, image, partial(settle, future))
            for image, future in zip(IMAGES, futures, strict=False)
        ]
        engine.submit(jobs)
        results = await asyncio.gather(*futures, return_exceptions=True)
        engine.stop()
        return results

    return asyncio.run(run())


class Failing(SegmentRunner):
    """A runner whose segment `exit` raises."""

    def __init__(self, bundle: Bundle, exit: int) -> None:
        manifest = bundle.manifest
        super().__init__(manifest.segments, manifest.exit_heads, bundle.graphs)
        self.exit = exit

    def run_segment(self, exit: int, features: Arrays) -> Arrays:
        if exit == self.exit:
            raise RuntimeError("made to fail")
        return super().run_segment(exit, features)


def failing(bundle: Bundle, exit: int) -> ServedModel:
    model = served(bundle, made_profile(per_row_s=0.0))
    return replace(model, runner=Failing(bundle, exit))


def only(results: list[Outcome | BaseException]) -> Outcome:
    (result,) = results
    assert isinstance(result, Outcome)
    return result


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


def test_failing_segment_answers_from_the_exit_before(digits_bundle: Bundle) -> None:
    outcome = only(outcomes(failing(digits_bundle, exit=3)))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 2)
    unconsulted = Policy((None, None, None), min_exit=1, max_exit=3)
    outcome = only(outcomes(failing(digits_bundle, exit=2), unconsulted))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 1)


def test_failing_first_segment_is_an_error(digits_bundle: Bundle) -> None:
    (error,) = outcomes(failing(digits_bundle, exit=1))
    assert isinstance(error, SegmentFailed)
    assert str(error) == "segment 1 of digits failed"


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


def test_failing_exit_head_answers_from_an_earlier_one(model: ServedModel) -> None:
    runner = model.runner

    class HeadFails(SegmentRunner):
        def __init__(self) -> None:
            vars(self).update(vars(runner))

        def run_head(self, exit: int, features: Arrays) -> Floats:
            if exit == 2:
                raise RuntimeError("made to fail")
            return super().run_head(exit, features)

    outcome = only(outcomes(replace(model, runner=HeadFails())))
    assert (outcome.stop_reason, outcome.answer.exit) == (StopReason.DEGRADED, 1)


def test_outcome_accounts_for_what_ran(model: ServedModel) -> None:
    outcome = only(outcomes(model))
    manifest = model.manifest
    assert outcome.macs == sum(g.macs for g in (*manifest.segments, *manifest.exit_heads))
    assert len(outcome.segment_s) == 3
    assert outcome.compute_s >= sum(outcome.segment_s)
    assert outcome.energy_j == pytest.approx(8.0 * outcome.compute_s)


def test_gather_joins_rows_and_copies_none_alone() -> None:
    one: list[Any] = [np.zeros((1, 2)), np.ones((1, 3))]
    two: list[Any] = [np.full((1, 2), 2.0), np.full((1, 3), 3.0)]
    assert gather([one]) is one
    first, second = gather([one, two])
    np.testing.assert_array_equal(first, [[0, 0], [2, 2]])
    np.testing.assert_array_equal(second, [[1, 1, 1], [3, 3, 3]])


class Stuck(SegmentRunner):
    """A runner whose segment `exit` sleeps first."""

    def __init__(self, bundle: Bundle, exit: int, sleep_s: float) -> None:
        manifest = bundle.manifest
        super().__init__(manifest.segments, manifest.exit_heads, bundle.graphs)
        self.exit, self.sleep_s = exit, sleep_s

    def run_segment(self, exit: int, features: Arrays) -> Arrays:
        if exit == self.exit:
            time.sleep(self.sleep_s)
        return super().run_segment(exit, features)


async def one_stuck_one_waiting(
    bundle: Bundle, then: Callable[[Engine, Job], None]
) -> tuple[list[float], list[Outcome | Exception], int]:
    """The only worker sleeps over one job while another, answered once, waits for its second exit.

    Returns when each outcome came, the outcomes, and how many slots were taken at the end.
    """
    model = replace(served(bundle, made_profile(per_row_s=0.0005)), runner=Stuck(bundle, 3, 0.5))
    engine = Engine(Scheduler(8, num_workers=1), Metrics())
    start = time.monotonic()
    ends: list[float] = []
    results: list[Outcome | Exception] = []

    def deliver(result: Outcome | Exception) -> None:
        ends.append(time.monotonic() - start)
        results.append(result)

    first = Job(model, NEVER, Budget(0.1), start, IMAGES[0], deliver)
    engine.submit([first])
    while first.exit < 2 or engine.queue_depth():
        await asyncio.sleep(0.001)
    second = Job(model, NEVER, Budget(0.2), start, IMAGES[1], deliver)
    second.exit = 1
    second.features = model.runner.run_segment(1, second.features)
    second.answers.append(Answer(1, np.full(10, 0.1, np.float32), 0.1, start))
    engine.submit([second])
    then(engine, second)
    while time.monotonic() - start < 0.8:
        await asyncio.sleep(0.01)
    in_flight = engine.in_flight()
    engine.stop()
    return ends, results, in_flight


def test_who_has_an_answer_does_not_wait_for_a_worker_to_give_it(digits_bundle: Bundle) -> None:
    ends, results, in_flight = asyncio.run(one_stuck_one_waiting(digits_bundle, lambda *_: None))
    waiting, stuck = results
    assert isinstance(waiting, Outcome)
    assert (waiting.answer.exit, waiting.stop_reason) == (1, StopReason.DEADLINE)
    assert 0.15 < ends[0] < 0.2 + 0.1, "in time, while the worker sleeps until 0.5 s"
    assert isinstance(stuck, Outcome)
    assert ends[1] > 0.45
    assert in_flight == 0


def test_a_cancelled_job_frees_its_slot_and_is_never_delivered(digits_bundle: Bundle) -> None:
    def cancel(engine: Engine, job: Job) -> None:
        assert engine.in_flight() == 2
        engine.cancel([job])
        assert engine.in_flight() == 1

    _, results, in_flight = asyncio.run(one_stuck_one_waiting(digits_bundle, cancel))
    assert len(results) == 1
    assert in_flight == 0


def test_a_job_cancelled_while_its_segment_runs_goes_no_further(digits_bundle: Bundle) -> None:
    async def run() -> tuple[list[Outcome | Exception], list[float], int]:
        profile = made_profile(per_row_s=0.0005)
        model = replace(served(digits_bundle, profile), runner=Stuck(digits_bundle, 1, 0.15))
        engine = Engine(Scheduler(8, num_workers=1), Metrics())
        results: list[Outcome | Exception] = []
        policy = Policy((None, None, None), min_exit=1, max_exit=3)
        job = Job(model, policy, Budget(), time.monotonic(), IMAGES[0], results.append)
        engine.submit([job])
        await asyncio.sleep(0.05)
        engine.cancel([job])
        await asyncio.sleep(0.3)
        in_flight = engine.in_flight()
        engine.stop()
        return results, job.segment_s, in_flight

    results, segment_s, in_flight = asyncio.run(run())
    assert (results, len(segment_s), in_flight) == ([], 1, 0)
