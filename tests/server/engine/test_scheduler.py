import numpy as np
import pytest

from models.bundle.costs import DELIVERY_S
from models.bundle.policy import policy_of_threshold
from server.engine.job import Answer, Budget, Demand, Job
from server.engine.queues import Step
from server.engine.scheduler import DEFAULT_DEADLINE_S, Scheduler, best_rows
from server.errors import Overloaded
from server.zoo.catalog import ServedModel


def demand(
    model: ServedModel, arrival: float = 0.0, latency_s: float | None = None, lag_s: float = 0.0
) -> Demand:
    return Demand(model, policy_of_threshold(1.0, 3), Budget(latency_s), arrival, lag_s)


def job(model: ServedModel, arrival: float = 0.0, latency_s: float | None = None) -> Job:
    image = np.zeros((8, 8, 1), np.uint8)
    return Job(demand(model, arrival, latency_s), image, ignore)


def ignore(_: object) -> None:
    pass


def answered(a_job: Job) -> Job:
    a_job.exit = 1
    return answered_at(a_job, exit=1)


def answered_at(a_job: Job, exit: int) -> Job:
    a_job.answers.append(Answer(exit, np.full(10, 0.1, np.float32), 0.1, at_s=0.0))
    return a_job


def test_first_answers_go_before_better_ones(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    urgent_but_answered = answered(job(model, latency_s=0.01))
    newcomer = job(model, latency_s=0.5)
    scheduler.admit([urgent_but_answered], now=0.0)
    scheduler.admit([newcomer], now=0.0)
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert (batch.step.exit, batch.jobs) == (1, [newcomer])
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert (batch.step.exit, batch.jobs) == (2, [urgent_but_answered])
    assert scheduler.next_batch(now=0.0) is None


def test_earliest_deadline_goes_first(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    loose = job(model, latency_s=DEFAULT_DEADLINE_S * 2)
    none = job(model)
    tight = job(model, latency_s=0.0125)
    for newcomer in (loose, none, tight):
        scheduler.admit([newcomer], now=0.0)
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert batch.jobs == [tight], "its slack leaves no time for a larger batch"
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert batch.jobs == [loose, none], "beyond the default deadline all are equal: in order"


def test_batches_never_mix_segments(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    later = job(model)
    later.exit = 1
    scheduler.admit([job(model), later, job(model)], now=0.0)
    batches = [scheduler.next_batch(0.0), scheduler.next_batch(0.0)]
    assert [(b.step.exit, len(b.jobs)) for b in batches if b] == [(1, 2), (2, 1)]


def test_batch_grows_while_it_gains_and_meets_the_deadline(model: ServedModel) -> None:
    assert best_rows(Step(model, 1), [1.0] * 4) == 4
    assert best_rows(Step(model, 1), [0.0125] * 4) == 2, "two graphs of 6 ms, not of 7 ms"
    assert best_rows(Step(model, 1), [1.0, 0.0125, 1.0, 1.0]) == 2, "whoever is in most of a hurry"
    assert best_rows(Step(model, 1), [0.0125, 0.009]) == 2, "who is late anyway hurries nobody"
    assert best_rows(Step(model, 1), [-1.0] * 4) == 4
    assert best_rows(Step(model, 1, is_head=True), [0.0065] * 4) == 2, "one graph of 6 ms"


def test_batch_is_no_larger_than_what_was_profiled(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    scheduler.admit([job(model) for _ in range(9)], now=0.0)
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert len(batch.jobs) == 4


def test_admission_is_all_or_nothing(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=3, num_workers=1)
    scheduler.admit([job(model), job(model)], now=0.0)
    with pytest.raises(Overloaded, match="2 of 3"):
        scheduler.admit([job(model), job(model)], now=0.0)
    assert (scheduler.in_flight, scheduler.queue_depth) == (2, 2)
    scheduler.finish(2)
    scheduler.admit([job(model), job(model), job(model)], now=0.0)
    assert scheduler.in_flight == 3


def test_idle_workers_share_a_queue(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=3)
    scheduler.admit([job(model) for _ in range(5)], now=0.0)
    batches = [scheduler.next_batch(0.0) for _ in range(3)]
    assert [len(batch.jobs) for batch in batches if batch] == [2, 2, 1]
    assert scheduler.next_batch(0.0) is None


def test_a_better_answer_does_not_hold_up_a_first_one_in_its_batch(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    unanswered = job(model)
    unanswered.exit = 1
    scheduler.admit([answered(job(model))], now=0.0)
    scheduler.admit([unanswered], now=0.0)
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    assert batch.jobs == [unanswered]


def test_who_waits_too_long_answers_with_what_there_is(model: ServedModel) -> None:
    """The next segment and its head take 10 ms, 1 ms is for delivery: the alarm is at 89 ms."""
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    early, late = answered(job(model, latency_s=0.1)), answered(job(model, latency_s=0.2))
    for a_job in (late, early):
        scheduler.admit([a_job], now=0.0)
    assert scheduler.next_alarm() == pytest.approx(0.089)
    assert scheduler.expire(0.0889) == []
    assert scheduler.expire(scheduler.next_alarm()) == [early]
    assert scheduler.next_alarm() == pytest.approx(0.189)
    assert scheduler.queue_depth == 1


def test_who_waits_too_long_without_an_answer_gets_one_from_the_exit_it_has_reached(
    model: ServedModel,
) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    unanswered = job(model, latency_s=0.1)
    unanswered.exit = 2
    scheduler.admit([unanswered], now=0.0)
    assert scheduler.expire(0.095) == []
    batch = scheduler.next_batch(0.095)
    assert batch is not None
    assert batch.step == Step(model, 2, is_head=True)
    assert batch.jobs == [unanswered]
    assert batch.ends_at == pytest.approx(0.1), "a head alone takes 5 ms"


def test_a_newcomer_that_would_come_too_late_is_refused(model: ServedModel) -> None:
    """The worker is busy for 16 ms with a batch of four, and a first answer takes 10 ms alone."""
    scheduler = Scheduler(max_in_flight=100, num_workers=1)
    scheduler.admit([job(model, latency_s=0.5) for _ in range(4)], now=0.0)
    running = scheduler.next_batch(0.0)
    assert running is not None
    scheduler.admit([job(model, latency_s=0.06) for _ in range(4)], now=0.0)
    with pytest.raises(Overloaded, match=r"^the first answer would come too late$"):
        scheduler.admit([job(model, latency_s=0.026)], now=0.0)
    assert (scheduler.in_flight, scheduler.queue_depth) == (8, 4)
    scheduler.admit([job(model, latency_s=0.028)], now=0.0)
    scheduler.done(running)
    scheduler.admit([job(model, latency_s=0.026)], now=0.0)


def test_a_newcomer_is_refused_for_the_sake_of_those_before_it(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=100, num_workers=1)
    for _ in range(8):
        scheduler.admit([job(model, latency_s=0.053)], now=0.0)
    with pytest.raises(Overloaded, match=r"^the first answer of another would come too late$"):
        scheduler.admit([job(model, latency_s=0.05) for _ in range(6)], now=0.0)
    scheduler.admit([job(model, latency_s=0.5) for _ in range(6)], now=0.0)


def test_a_budget_that_nobody_could_meet_is_taken_on_but_hurries_nobody(
    model: ServedModel,
) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    hopeless, feasible = job(model, latency_s=0.005), job(model, latency_s=0.0125)
    scheduler.admit([hopeless], now=0.0)
    scheduler.admit([feasible], now=0.0)
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    assert batch.jobs == [feasible]


def test_a_budget_spent_on_waiting_is_refused_but_one_spent_on_its_own_work_is_not(
    model: ServedModel,
) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    waited, worked = job(model, latency_s=0.03), job(model, latency_s=0.03)
    waited.demand = demand(model, latency_s=0.03, lag_s=0.025)
    with pytest.raises(Overloaded, match=r"^the first answer would come too late$"):
        scheduler.admit([waited], now=0.026)
    scheduler.admit([worked], now=0.026)
    assert worked.due == 0.026 + DEFAULT_DEADLINE_S, "it hurries nobody"


def test_patience_does_not_run_out_while_an_image_is_still_being_read(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    scheduler.admit([job(model)], now=5.0)
    slow = job(model)
    scheduler.admit([slow], now=5.0)
    assert slow.due == 5.0 + DEFAULT_DEADLINE_S


def test_budgets_keep_room_for_what_a_response_takes(model: ServedModel) -> None:
    """A first answer takes 10 ms, and so does a better one."""
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    waiting = job(model, latency_s=0.04)
    scheduler.admit([waiting], now=0.0)
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    scheduler.done(batch)
    scheduler.wait(answered(waiting), now=0.01)
    assert scheduler.next_alarm() == pytest.approx(0.04 - 0.01 - DELIVERY_S)
    newcomer = demand(model, arrival=0.01, latency_s=0.03)
    scheduler.check(newcomer, 1, now=0.01)
    for _ in range(20):
        model.costs.delivered(0.025)
    assert model.costs.delivery_s == pytest.approx(0.025, rel=0.01)
    assert scheduler.next_alarm() == pytest.approx(0.04 - 0.01 - model.costs.delivery_s)
    with pytest.raises(Overloaded, match=r"^the first answer would come too late$"):
        scheduler.check(newcomer, 1, now=0.01)
    assert scheduler.expire(now=0.01) == [waiting], "better now than late"
    scheduler.finish(1)
    scheduler.check(newcomer, 1, now=0.01)  # a server with nothing else to do refuses nobody


def test_who_leaves_is_run_no_more(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10, num_workers=1)
    staying, leaving = job(model), job(model)
    scheduler.admit([staying, leaving], now=0.0)
    assert scheduler.leave(leaving)
    assert not scheduler.leave(leaving)
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    assert batch.jobs == [staying]
    assert not scheduler.leave(staying), "it is running"
    assert scheduler.in_flight == 2


def test_a_first_answer_is_expected_to_wait_for_those_before_it(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=100, num_workers=1)
    scheduler.admit([job(model) for _ in range(12)], now=0.0)
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    assert len(batch.jobs) == 4
    assert batch.ends_at == pytest.approx(0.016)
    assert batch.wait_s == pytest.approx(8 * 0.004)


@pytest.mark.parametrize("is_running", [False, True])
def test_an_alarm_never_rings_for_nobody(model: ServedModel, is_running: bool) -> None:
    """However times are rounded: a simulated clock would stand still."""
    for latency_s in np.random.default_rng(0).uniform(0.02, 0.2, 2000).tolist():
        scheduler = Scheduler(max_in_flight=10, num_workers=1)
        waiting = job(model, latency_s=latency_s)
        scheduler.admit([answered(waiting)], now=0.0)
        if is_running:
            scheduler.next_batch(0.0)
        assert scheduler.expire(scheduler.next_alarm()) == [waiting]
