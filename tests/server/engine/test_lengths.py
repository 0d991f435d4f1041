"""Rows of texts batch with rows of the same length bucket, and cost what their bucket costs."""

import pytest

from benchmarks.small_bundles import LENGTHS, NUM_EXITS
from models.bundle.policy import StopReason, policy_of_threshold
from server.engine.job import Budget, Demand, Given, Job
from server.engine.model import ServedModel
from server.errors import Infeasible
from tests.server.engine.desk import Desk, ignore


def job(model: ServedModel, length: int) -> Job:
    demand = Demand(model, policy_of_threshold(1.0, NUM_EXITS), Budget(), 0.0, length=length)
    return Job(demand, Given([], 0, length), ignore)


def test_a_batch_has_one_length(words: ServedModel) -> None:
    desk = Desk()
    jobs = [job(words, length) for length in (4, 16, 4, 8, 16, 4)]
    for each in jobs:
        desk.admit(each)
    batches = [desk.run() for _ in LENGTHS]
    assert [batch.step.length for batch in batches] == [4, 16, 8]
    assert [batch.jobs for batch in batches] == [
        [jobs[0], jobs[2], jobs[5]],
        [jobs[1], jobs[4]],
        [jobs[3]],
    ]
    assert [batch.ends_at for batch in batches] == pytest.approx([0.002, 0.012, 0.004])


def test_a_job_keeps_its_length_from_exit_to_exit(words: ServedModel) -> None:
    desk, survivor = Desk(), job(words, 8)
    desk.admit(survivor)
    desk.run()
    survivor.exit = 1
    desk.scheduler.wait(survivor, 0.0)
    assert desk.run().step == words.step(2, length=8)
    desk.scheduler.wait_to_answer(survivor, StopReason.DEADLINE, 0.0)
    assert desk.run().step == words.step(1, is_head=True, length=8)


def test_costs_and_lanes_are_those_of_the_length(words: ServedModel) -> None:
    short, long = words.step(1, length=4), words.step(1, length=16)
    assert (short.seconds(2), long.seconds(2)) == pytest.approx((0.002, 0.012))
    assert (short.inline_rows, long.inline_rows) == (4, 0)
    short.costs.segment_took(1, 1, 0.01)
    assert short.seconds(1) > 0.002
    assert long.seconds(1) == pytest.approx(0.012)


def test_admission_expects_what_the_length_costs(words: ServedModel) -> None:
    for length, fits in ((4, True), (16, False)):
        desk, budget = Desk(), Budget(latency_s=0.006)
        demand = Demand(words, policy_of_threshold(1.0, NUM_EXITS), budget, 0.0, length=length)
        if fits:
            slots = desk.admission.admit(demand, 1, 0.0, strict=True)
            desk.admission.decoded(slots)
        else:
            with pytest.raises(Infeasible):
                desk.admission.admit(demand, 1, 0.0, strict=True)


def test_an_exit_counts_the_macs_of_the_length(words: ServedModel) -> None:
    assert [segment.macs_of(4) for segment in words.manifest.segments] == [12, 12, 12]
    assert [head.macs_of(16) for head in words.manifest.exit_heads] == [96, 96, 96]
