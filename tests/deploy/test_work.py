"""What crosses from a Ray ingress to its engines: durations, never one machine's clock."""

import pickle

import numpy as np
import pytest

from deploy.ray.work import shifted, work_of
from models.bundle.bundle import Bundle
from models.bundle.policy import StopReason, policy_of_threshold
from server.engine.job import Answer, Budget, Demand, Given, Job, Outcome, Run
from tests.server.conftest import made_profile, served

ROW = Given.of(np.zeros((8, 8, 1), np.uint8))
POLICY = policy_of_threshold(0.5, 3)


def job(bundle: Bundle, budget: Budget, arrival: float) -> Job:
    model = served(bundle, made_profile(per_row_s=0.001))
    return Job(Demand(model, POLICY, budget, arrival), ROW, lambda _: None)


def test_work_brings_what_is_left_of_the_budget(digits_bundle: Bundle) -> None:
    one = job(digits_bundle, Budget(latency_s=0.5, energy_j=2.0), arrival=100.0)
    work = work_of([one, one], now=100.2)
    assert (work.model, work.version, len(work.rows)) == ("digits", 1, 2)
    assert work.budget.latency_s == pytest.approx(0.3)
    assert work.budget.energy_j == 2.0
    assert not work.strict
    assert work_of([one], now=100.2, strict=True).strict
    assert work.length == 0
    one.demand.length = 32
    assert work_of([one], now=100.2).length == 32
    assert pickle.loads(pickle.dumps(work)).policy == POLICY


def test_no_budget_stays_none(digits_bundle: Bundle) -> None:
    assert work_of([job(digits_bundle, Budget(), 100.0)], now=200.0).budget == Budget()


def test_answers_are_told_by_the_other_clock_and_nothing_else_changes() -> None:
    answer = Answer(1, np.ones(1, np.float32), 0.9, at_s=5.5)
    outcome = Outcome(
        answer, StopReason.CONFIDENT, 0.1, 0.2, 0.3, 4, (Run(0.2, 5.4),), (answer,), 6.0
    )
    there = shifted(outcome, -5.0)
    assert (there.answer.at_s, there.answers[0].at_s, there.ended_at) == (0.5, 0.5, 1.0)
    assert [run.ended_at for run in there.runs] == pytest.approx([0.4])
    assert [run.seconds for run in there.runs] == [0.2]
    again = shifted(there, 100.0)
    assert again.answer.at_s == 100.5
    assert (again.stop_reason, again.queue_s, again.macs) == (StopReason.CONFIDENT, 0.1, 4)
