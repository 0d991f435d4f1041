"""The real engine on real threads; only the faults and the costs are made."""

import asyncio
import time
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
from server.job import Budget, Job, Outcome
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
        engine = Engine(Scheduler(64), metrics or Metrics(), num_workers=2)
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
