"""The scheduler's promises under a simulated clock: random requests, costs as predicted."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.bundle.bundle import Bundle
from models.bundle.costs import Costs
from models.bundle.policy import StopReason, policy_of_threshold
from server.engine.admission import DEFAULT_DEADLINE_S, Admission
from server.engine.job import Budget, Demand, Job, Outcome
from server.engine.model import TURN_S, ServedModel, Step
from server.engine.pace import DELIVERY_S
from server.engine.scheduler import Batch, Scheduler
from server.planning.simulation import NO_PYTHON, Fate, Python, Request, Simulation
from tests.server.conftest import made_profile, served

FIXTURES_STAY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
EPSILON = 1e-9
NUM_EXITS = 3
UNSURE = (0.5, 0.5, 0.5)
CAPACITY = 250
"""First answers per second of a lane, in batches of four rows: 16 ms."""


@dataclass(frozen=True)
class Draw:
    """A request without its model."""

    gap_s: float
    latency_s: float | None
    threshold: float = 1.0
    min_exit: int = 1
    confidences: tuple[float, ...] = UNSURE


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


@pytest.fixture(params=["threads", "event loop"])
def any_model(request: pytest.FixtureRequest, digits_bundle: Bundle) -> ServedModel:
    """A model whose lanes are threads, and one that is ten times as fast on the event loop."""
    scale = 1.0 if request.param == "threads" else 0.1
    return served(digits_bundle, made_profile(per_row_s=scale * 0.001, fixed_s=scale * 0.004))


def requests_of(model: ServedModel, drawn: list[Draw]) -> list[Request]:
    now, requests = 0.0, []
    for draw in drawn:
        now += draw.gap_s
        policy = policy_of_threshold(draw.threshold, NUM_EXITS, min_exit=draw.min_exit)
        budget = Budget(draw.latency_s)
        requests.append(Request(Demand(model, policy, budget, now), draw.confidences))
    return requests


def as_predicted(step: Step, rows: int, is_head: bool) -> float:
    costs = step.costs
    return costs.head_s(step.exit, rows) if is_head else costs.segment_s(step.exit, rows)


def as_predicted_at_first(model: ServedModel) -> Callable[[Step, int, bool], float]:
    """As predicted by the model's profile, of which nothing has been learned."""
    costs = Costs(model.profile)

    def took(step: Step, rows: int, is_head: bool) -> float:
        return costs.head_s(step.exit, rows) if is_head else costs.segment_s(step.exit, rows)

    return took


class Watched(Scheduler):
    """Checks every batch it gives out."""

    __slots__ = ()

    def next_batch(self, now: float) -> Batch | None:
        waiting = list(self._queues.jobs())
        are_busy = len(self._running) == self.num_lanes
        batch = Scheduler.next_batch(self, now)
        is_inline = any(job.model.step(1).inline_rows > 0 for job in waiting)
        assert (batch is None) == (not waiting or (are_busy and not is_inline)), "work is conserved"
        if batch is not None:
            self.judge(batch, waiting)
        return batch

    def judge(self, batch: Batch, waiting: list[Job]) -> None:
        due = min(job.due for job in batch.jobs)
        if due > min(job.due for job in waiting):
            first = [job for job in waiting if not job.answers]
            assert not any(job.answers for job in batch.jobs), "only first answers may go before"
            assert due == min(job.due for job in first), "of them the earliest due"
        assert {job.exit + (not batch.step.is_head) for job in batch.jobs} == {batch.step.exit}
        assert len(batch.jobs) <= batch.step.costs.max_rows


def run(
    requests: list[Request], lanes: int = 1, slots: int = 10_000, python: Python = NO_PYTHON
) -> list[Fate]:
    admission = Admission(slots, Watched(lanes))
    took = as_predicted_at_first(requests[0].demand.model)
    fates = Simulation(admission, took, python).run(requests)
    assert (admission.in_flight, admission.scheduler.queue_depth) == (0, 0)
    return fates


def simulate(
    model: ServedModel, drawn: list[Draw], lanes: int = 1, slots: int = 10_000
) -> tuple[list[Request], list[Fate]]:
    requests = requests_of(model, drawn)
    return requests, run(requests, lanes, slots)


def outcomes_of(requests: list[Request], fates: list[Fate]) -> list[Outcome | None]:
    """In the order of the requests."""
    outcomes = {id(fate.request): fate.outcome for fate in fates}
    return [outcomes[id(request)] for request in requests]


@FIXTURES_STAY
@given(draws, st.integers(1, 4), st.integers(1, 40))
def test_every_request_is_answered_once_or_refused_once(
    any_model: ServedModel, drawn: list[Draw], lanes: int, slots: int
) -> None:
    requests, fates = simulate(any_model, drawn, lanes, slots)
    assert Counter(id(fate.request) for fate in fates) == Counter(map(id, requests))
    ends = [fate.at_s for fate in fates]
    assert ends == sorted(ends)


@FIXTURES_STAY
@given(draws, st.integers(1, 4))
def test_no_request_that_has_an_answer_in_time_is_late(
    any_model: ServedModel, drawn: list[Draw], lanes: int
) -> None:
    """On the event loop it waits for the batches of one turn at most."""
    _, fates = simulate(any_model, drawn, lanes)
    is_inline = any_model.step(1).inline_rows > 0
    turn_s = TURN_S + any_model.costs.batch_s(1, 4) if is_inline else 0.0
    for fate in fates:
        budget_s = fate.request.demand.budget.latency_s
        if fate.outcome is not None and budget_s is not None:
            due = fate.request.demand.arrival + budget_s - DELIVERY_S
            if fate.outcome.answers[0].at_s <= due:
                assert fate.at_s <= due + turn_s + EPSILON


@FIXTURES_STAY
@given(draws, st.integers(1, 4))
def test_an_answer_is_the_deepest_one_and_has_its_reason(
    any_model: ServedModel, drawn: list[Draw], lanes: int
) -> None:
    _, fates = simulate(any_model, drawn, lanes)
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


TIGHT_S = 0.06


def mixture(load: float, seed: int) -> list[Draw]:
    """Requests with a tight budget and without any, at a share of the first answers possible."""
    source = random.Random(seed)
    gaps = [source.uniform(0, 2 / (load * CAPACITY)) for _ in range(250)]
    return [Draw(gap_s, source.choice([None, TIGHT_S])) for gap_s in gaps]


def fates_by_budget(fates: list[Fate]) -> dict[float | None, Counter[str]]:
    """How many requests of each kind were refused, late and in time."""
    found: dict[float | None, Counter[str]] = {None: Counter(), TIGHT_S: Counter()}
    for fate in fates:
        budget_s = fate.request.demand.budget.latency_s
        is_late = fate.latency_s > (budget_s or DEFAULT_DEADLINE_S) + EPSILON
        end = "refused" if fate.outcome is None else "late" if is_late else "in time"
        found[budget_s][end] += 1
    return found


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_requests_without_a_budget_and_tight_ones_do_not_starve_each_other(
    model: ServedModel, load: float, seed: int
) -> None:
    """Below what first answers can carry, all of both kinds are answered in their time."""
    _, fates = simulate(model, mixture(load, seed))
    for found in fates_by_budget(fates).values():
        assert found.keys() == {"in time"}


@pytest.mark.parametrize("seed", range(3))
def test_just_above_capacity_neither_kind_of_request_pays_for_the_other(
    model: ServedModel, seed: int
) -> None:
    """A quarter more than first answers can carry, for a second: those without a budget wait."""
    _, fates = simulate(model, mixture(1.25, seed))
    for found in fates_by_budget(fates).values():
        assert found["in time"] >= 0.9 * found.total()


def test_alone_a_request_without_a_budget_takes_the_sum_of_its_steps(model: ServedModel) -> None:
    _, (fate,) = simulate(model, [Draw(0.0, None)])
    assert fate.latency_s == pytest.approx(6 * 0.005)
    assert fate.outcome is not None
    assert fate.outcome.stop_reason == StopReason.FINAL
    assert (fate.outcome.queue_s, len(fate.outcome.answers)) == (0, 3)


@pytest.mark.parametrize(("threshold", "steps"), [(0.0, 1), (1.0, 3)])
def test_python_and_short_batches_take_turns_on_the_event_loop(
    short_model: ServedModel, threshold: float, steps: int
) -> None:
    """Two requests at once. A batch of two takes 1.5 ms and 0.1 ms of Python.

    Each request takes 0.2 ms before it, one after the other, and as much after it.
    """
    drawn = [Draw(0.0, None, threshold)] * 2
    fates = run(requests_of(short_model, drawn), python=Python(0.0004, 0.0001))
    batches_s = steps * 0.0016
    assert [fate.latency_s for fate in fates] == pytest.approx(
        [0.0004 + batches_s + 0.0002, 0.0004 + batches_s + 0.0004]
    )
    assert short_model.costs.overhead_s == 0, "no batch is expected to take what it never did"


def test_threads_run_beside_the_event_loop(model: ServedModel) -> None:
    """A request is read in 5 ms; the second while the first runs, for 10 ms.

    Handing a batch over takes 2 ms, and a response 5.
    """
    drawn = [Draw(0.0, None, 0.0), Draw(0.001, None, 0.0)]
    fates = run(requests_of(model, drawn), lanes=2, python=Python(0.01, 0.002))
    assert [fate.latency_s for fate in fates] == pytest.approx([0.022, 0.028])


def test_requests_wait_unread_while_the_event_loop_is_busy(short_model: ServedModel) -> None:
    """The batch before it takes 1 ms; it is read after that, and nothing refuses it."""
    fates = run(requests_of(short_model, [Draw(0.0, 0.1, 0.0), Draw(0.0001, 0.1, 0.0)]))
    assert [fate.latency_s for fate in fates] == pytest.approx([0.001, 0.0019])


def test_under_overload_every_admitted_request_is_shallow_and_in_time(model: ServedModel) -> None:
    """Four times the first answers that a lane can give."""
    _, fates = simulate(model, [Draw(0.001, 0.1)] * 1000)
    answered = [fate for fate in fates if fate.outcome is not None]
    assert 0.9 * CAPACITY <= len(answered) / (1000 * 0.001) <= 1.1 * CAPACITY
    assert max(fate.latency_s for fate in answered) <= 0.1 - DELIVERY_S + EPSILON
    depths = Counter(fate.outcome.answer.exit for fate in answered if fate.outcome)
    assert depths[1] > 0.9 * len(answered)


def test_the_same_on_the_event_loop_once_it_is_known_how_long_responses_wait_for_a_turn(
    digits_bundle: Bundle,
) -> None:
    """Ten times as fast. Responses leave between two turns, which start as long as 5.6 ms apart."""
    fast = served(digits_bundle, made_profile(per_row_s=0.0001, fixed_s=0.0004))
    _, fates = simulate(fast, [Draw(0.0001, 0.03)] * 3000)
    known = [fate for fate in fates if fate.request.demand.arrival > 0.1 and fate.outcome]
    assert len(known) >= 0.8 * 10 * CAPACITY * 0.2
    late = sum(fate.latency_s > 0.03 for fate in known)
    assert late <= 0.02 * len(known)
    deep = sum(fate.outcome is not None and fate.outcome.answer.exit > 1 for fate in known)
    assert deep <= 0.1 * len(known)


@settings(FIXTURES_STAY, max_examples=15)
@given(st.floats(1.5, 6), st.floats(0.03, 0.2))
def test_while_requests_are_refused_the_others_get_no_deeper_than_they_need(
    model: ServedModel, load: float, budget_s: float
) -> None:
    """Equal budgets, steady overload: between the first refusal and the last one.

    Jobs that arrive just before the load ends have time to go on.
    """
    drawn = [Draw(1 / (load * CAPACITY), budget_s)] * 1000
    requests, fates = simulate(model, drawn)
    outcomes = outcomes_of(requests, fates)
    refused = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert refused
    steady = [o for o in outcomes[refused[0] : refused[-1]] if o is not None]
    deep = sum(outcome.answer.exit > 1 for outcome in steady)
    assert deep <= 0.05 * len(steady)


def test_after_overload_no_request_is_refused_and_depth_comes_back(model: ServedModel) -> None:
    """Under load responses take long, and are expected to for some answers more."""
    overload, calm = (
        [Draw(gap_s, 0.06)] * number for gap_s, number in ((0.001, 1000), (0.05, 200))
    )
    requests = requests_of(model, overload + calm)
    outcomes = outcomes_of(requests, run(requests, python=Python(0.002, 0.0002)))
    assert None in outcomes[:1000]
    exits = [o and o.answer.exit for o in outcomes[1001:]]  # one comes before the loop is through
    assert None not in exits
    assert exits[-50:] == [3] * 50


def test_when_a_segment_becomes_slow_the_next_stop_before_it(model: ServedModel) -> None:
    """Segment 2 takes ten times what it did, which no budget here has room for."""
    at_first = as_predicted_at_first(model)

    def took(step: Step, rows: int, is_head: bool) -> float:
        is_slow = step.exit == 2 and not is_head and simulation.now > 1.0
        return (10 if is_slow else 1) * at_first(step, rows, is_head)

    simulation = Simulation(Admission(1000, Scheduler(1)), took)
    fates = simulation.run(requests_of(model, [Draw(0.1, 0.05)] * 30))
    outcomes = [fate.outcome for fate in fates if fate.outcome is not None]
    assert len(outcomes) == 30
    assert max(fate.latency_s for fate in fates) <= 0.05 - DELIVERY_S + EPSILON
    before, learning, after = outcomes[:9], outcomes[10], outcomes[20:]
    assert {o.stop_reason for o in before} == {StopReason.FINAL}
    assert (learning.answer.exit, learning.stop_reason) == (1, StopReason.DEADLINE)
    assert learning.ended_at - learning.answer.at_s > 0.03, "it was in segment 2 to the end"
    assert {(o.answer.exit, o.stop_reason) for o in after} == {(1, StopReason.DEADLINE)}
    assert all(o.ended_at == o.answer.at_s for o in after), "and never began it"


def test_just_within_capacity_no_request_is_refused(model: ServedModel) -> None:
    _, fates = simulate(model, [Draw(1 / 200, 0.1)] * 1000)
    assert all(fate.outcome is not None for fate in fates)
    assert max(fate.latency_s for fate in fates) <= 0.1 - DELIVERY_S + EPSILON
