"""The scheduler's promises under a simulated clock: random requests, costs as predicted."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.bundle.costs import DELIVERY_S, Costs
from models.bundle.policy import StopReason, policy_of_threshold
from server.engine.job import Budget, Demand, Job
from server.engine.queues import Step
from server.engine.scheduler import Batch, Scheduler
from server.planning.simulation import Fate, Python, Request, Simulation
from server.zoo.catalog import ServedModel

FIXTURES_STAY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
EPSILON = 1e-9
NUM_EXITS = 3


@dataclass(frozen=True)
class Draw:
    """A request without its model."""

    gap_s: float
    latency_s: float | None
    threshold: float
    min_exit: int
    confidences: tuple[float, ...]


confidence = st.floats(0, 1)
draws = st.lists(
    st.builds(
        Draw,
        gap_s=st.one_of(st.just(0.0), st.floats(0, 0.02)),
        latency_s=st.none() | st.floats(0.001, 0.2),
        threshold=st.floats(0, 1),
        min_exit=st.integers(1, NUM_EXITS),
        confidences=st.tuples(confidence, confidence, confidence),
    ),
    min_size=1,
    max_size=40,
)


def requests_of(model: ServedModel, drawn: list[Draw]) -> list[Request]:
    now, requests = 0.0, []
    for draw in drawn:
        now += draw.gap_s
        policy = policy_of_threshold(draw.threshold, NUM_EXITS, min_exit=draw.min_exit)
        budget = Budget(draw.latency_s)
        requests.append(Request(Demand(model, policy, budget, now), draw.confidences))
    return requests


def as_predicted(step: Step, rows: int, is_head: bool) -> float:
    costs = step.model.costs
    return costs.head_s(step.exit, rows) if is_head else costs.segment_s(step.exit, rows)


def as_predicted_at_first(step: Step, rows: int, is_head: bool) -> float:
    """As predicted by a profile of which nothing has been learned."""
    costs = Costs(step.model.profile)
    return costs.head_s(step.exit, rows) if is_head else costs.segment_s(step.exit, rows)


class Watched(Scheduler):
    """Checks every batch it gives out."""

    __slots__ = ()

    def next_batch(self, now: float) -> Batch | None:
        waiting = list(self._queues.jobs())
        batch = super().next_batch(now)
        assert (batch is None) == (not waiting), "work is conserved"
        if batch is not None:
            self.judge(batch, waiting)
        return batch

    def judge(self, batch: Batch, waiting: list[Job]) -> None:
        first = [job for job in waiting if not job.answers]
        if first:
            assert not any(job.answers for job in batch.jobs), "first answers go first"
            assert min(job.due for job in first) == batch.jobs[0].due, "earliest deadline first"
        assert {job.exit + (not batch.step.is_head) for job in batch.jobs} == {batch.step.exit}
        assert len(batch.jobs) <= batch.step.model.costs.max_rows


def simulate(
    model: ServedModel, drawn: list[Draw], workers: int = 1, slots: int = 1000
) -> tuple[list[Request], list[Fate]]:
    requests = requests_of(model, drawn)
    scheduler = Watched(slots, workers)
    fates = Simulation(scheduler, as_predicted).run(requests)
    assert (scheduler.in_flight, scheduler.queue_depth) == (0, 0)
    return requests, fates


@FIXTURES_STAY
@given(draws, st.integers(1, 4), st.integers(1, 40))
def test_every_request_is_answered_once_or_refused_once(
    model: ServedModel, drawn: list[Draw], workers: int, slots: int
) -> None:
    requests, fates = simulate(model, drawn, workers, slots)
    assert Counter(id(fate.request) for fate in fates) == Counter(map(id, requests))
    ends = [fate.at_s for fate in fates]
    assert ends == sorted(ends)


@FIXTURES_STAY
@given(draws, st.integers(1, 4))
def test_nobody_who_has_an_answer_in_time_is_late(
    model: ServedModel, drawn: list[Draw], workers: int
) -> None:
    _, fates = simulate(model, drawn, workers)
    for fate in fates:
        budget_s = fate.request.demand.budget.latency_s
        if fate.outcome is not None and budget_s is not None:
            due = fate.request.demand.arrival + budget_s - DELIVERY_S
            if fate.outcome.answers[0].at_s <= due:
                assert fate.at_s <= due + EPSILON


@FIXTURES_STAY
@given(draws, st.integers(1, 4))
def test_an_answer_is_the_deepest_one_and_has_its_reason(
    model: ServedModel, drawn: list[Draw], workers: int
) -> None:
    _, fates = simulate(model, drawn, workers)
    for fate in fates:
        if fate.outcome is None:
            continue
        outcome, policy = fate.outcome, fate.request.demand.policy
        exits = [answer.exit for answer in outcome.answers]
        assert exits == sorted(set(exits))
        assert outcome.answer == outcome.answers[-1]
        confidence = fate.request.confidences[outcome.answer.exit - 1]
        threshold = policy.thresholds[outcome.answer.exit - 1]
        if outcome.stop_reason == StopReason.CONFIDENT:
            assert threshold is not None
            assert confidence > threshold
            assert outcome.answer.exit >= policy.min_exit
        elif outcome.stop_reason == StopReason.FINAL:
            assert outcome.answer.exit == NUM_EXITS
        else:
            assert outcome.stop_reason == StopReason.DEADLINE


def test_alone_a_request_without_a_budget_takes_the_sum_of_its_steps(model: ServedModel) -> None:
    drawn = [Draw(0.0, None, 1.0, 1, (0.5, 0.5, 0.5))]
    _, (fate,) = simulate(model, drawn)
    assert fate.latency_s == pytest.approx(6 * 0.005)
    assert fate.outcome is not None
    assert fate.outcome.stop_reason == StopReason.FINAL
    assert (fate.outcome.queue_s, len(fate.outcome.answers)) == (0, 3)


@pytest.mark.parametrize(("cores", "latencies"), [(None, [0.022, 0.029]), (1, [0.027, 0.044])])
def test_python_runs_one_after_the_other_and_before_graphs(
    model: ServedModel, cores: int | None, latencies: list[float]
) -> None:
    """Two requests at once, two workers. A graph takes 5 ms, each half of a request's Python too.

    The second waits for the first before it is admitted, and after its graphs. On one core the
    first waits for that, too, and the second for all that the first has to do.
    """
    drawn = [Draw(0.0, None, 0.0, 1, (0.5, 0.5, 0.5))] * 2
    python = Python(request_s=0.01, batch_s=0.002)
    simulation = Simulation(Scheduler(10, 2), as_predicted, python, cores)
    fates = simulation.run(requests_of(model, drawn))
    assert [fate.latency_s for fate in fates] == pytest.approx(latencies)
    assert model.costs.delivery_s == pytest.approx(1.5**2 * DELIVERY_S), "slower than expected"


def test_under_overload_everybody_admitted_is_shallow_and_in_time(model: ServedModel) -> None:
    """A worker gives 250 first answers a second in batches of four; 1,000 requests come in one."""
    drawn = [Draw(0.001, 0.1, 1.0, 1, (0.5, 0.5, 0.5))] * 1000
    _, fates = simulate(model, drawn)
    answered = [fate for fate in fates if fate.outcome is not None]
    assert 240 <= len(answered) / (1000 * 0.001) <= 275
    assert max(fate.latency_s for fate in answered) <= 0.1 - DELIVERY_S + EPSILON
    depths = Counter(fate.outcome.answer.exit for fate in answered if fate.outcome)
    assert depths[1] > 0.9 * len(answered)


def test_after_overload_nobody_is_refused_and_depth_comes_back(model: ServedModel) -> None:
    """Under load responses take long, and are expected to for some answers more."""
    overload, calm = (
        [Draw(gap_s, 0.06, 1.0, 1, (0.5, 0.5, 0.5))] * number
        for gap_s, number in ((0.001, 1000), (0.05, 200))
    )
    requests = requests_of(model, overload + calm)
    fates = Simulation(Scheduler(1000, 1), as_predicted, Python(0.002, 0.0002)).run(requests)
    outcomes = {id(fate.request): fate.outcome for fate in fates}
    assert None in [outcomes[id(request)] for request in requests[:1000]]
    exits = [o and o.answer.exit for o in (outcomes[id(request)] for request in requests[1000:])]
    assert exits[:3] == [1, 1, 1]
    assert None not in exits
    assert exits[-50:] == [3] * 50


def test_when_a_segment_becomes_slow_the_next_stop_before_it(model: ServedModel) -> None:
    """Segment 2 takes ten times what it did, which no budget here has room for."""

    def took(step: Step, rows: int, is_head: bool) -> float:
        is_slow = step.exit == 2 and not is_head and simulation.now > 1.0
        return (10 if is_slow else 1) * as_predicted_at_first(step, rows, is_head)

    drawn = [Draw(0.1, 0.05, 1.0, 1, (0.5, 0.5, 0.5))] * 30
    simulation = Simulation(Scheduler(1000, 1), took)
    fates = simulation.run(requests_of(model, drawn))
    outcomes = [fate.outcome for fate in fates if fate.outcome is not None]
    assert len(outcomes) == 30
    assert max(fate.latency_s for fate in fates) <= 0.05 - DELIVERY_S + EPSILON
    before, learning, after = outcomes[:9], outcomes[10], outcomes[20:]
    assert {o.stop_reason for o in before} == {StopReason.FINAL}
    assert (learning.answer.exit, learning.stop_reason) == (1, StopReason.DEADLINE)
    assert learning.ended_at - learning.answer.at_s > 0.03, "it was in segment 2 to the end"
    assert {(o.answer.exit, o.stop_reason) for o in after} == {(1, StopReason.DEADLINE)}
    assert all(o.ended_at == o.answer.at_s for o in after), "and never began it"


def test_just_within_capacity_nobody_is_refused(model: ServedModel) -> None:
    drawn = [Draw(1 / 200, 0.1, 1.0, 1, (0.5, 0.5, 0.5))] * 1000
    _, fates = simulate(model, drawn)
    assert all(fate.outcome is not None for fate in fates)
    assert max(fate.latency_s for fate in fates) <= 0.1 - DELIVERY_S + EPSILON
