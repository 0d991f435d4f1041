"""Which jobs run next, at given times.

A step of the model takes 10 ms for one row and 2 ms more for each further one, up to four; a row of
a batch of four takes 4 ms. A response takes 1 ms.
"""

from math import inf

import numpy as np
import pytest

from models.bundle.bundle import Bundle
from server.engine.admission import DEFAULT_DEADLINE_S
from server.engine.debt import MAX_DEBT_S
from server.engine.model import ServedModel
from server.engine.pace import DELIVERY_S
from server.engine.scheduler import MARGIN, best_rows
from tests.server.conftest import made_profile, served
from tests.server.engine.desk import Desk, answered, demand, job, job_of, unanswered


def test_the_earliest_due_job_decides_whatever_exit_it_stands_at(model: ServedModel) -> None:
    desk = Desk()
    loose, tight = answered(job(model, 0.9)), answered(job(model, 0.3), exit=2)
    newcomer = job(model, 0.5)
    for each in (loose, newcomer, tight):
        desk.admit(each)
    ran = [desk.run() for _ in range(3)]
    assert [batch.jobs for batch in ran] == [[tight], [newcomer], [loose]]
    assert [batch.step.exit for batch in ran] == [3, 1, 2]
    assert desk.scheduler.next_batch(0.0) is None


def test_first_answers_go_before_better_ones_when_there_is_no_time_for_both(
    model: ServedModel,
) -> None:
    """A better answer takes 10 ms, and a first one after it 11 ms with its margin."""
    for latency_s, first in ((0.0225, 2), (0.0215, 1)):
        desk = Desk()
        survivor, newcomer = answered(job(model, 0.0205)), job(model, latency_s)
        desk.admit(survivor)
        desk.admit(newcomer)
        assert [desk.run().step.exit for _ in range(2)] == [first, 3 - first]


def test_first_answers_are_left_time_for_a_whole_batch(model: ServedModel) -> None:
    """A better answer takes 10 ms, and then a batch of four 17.6 ms with its margin.

    With time for small batches only, a queue falls behind and then meets no deadline.
    """
    for latency_s, first in ((0.0295, 2), (0.0275, 1)):
        desk = Desk()
        desk.admit(answered(job(model, 0.0205)))
        desk.admit(*(job(model, latency_s) for _ in range(4)))
        assert [desk.run().step.exit for _ in range(2)] == [first, 3 - first]


def test_survivors_go_on_and_newcomers_join_where_they_meet_them(model: ServedModel) -> None:
    desk = Desk()
    desk.admit(job(model, 0.5), job(model, 0.5))
    first = desk.run()
    newcomer = job_of(demand(model, 0.5, arrival=0.01))
    desk.admit(newcomer, now=0.01)
    for survivor in first.jobs:
        desk.scheduler.wait(answered(survivor), 0.012)
    assert desk.run(0.012).jobs == first.jobs, "they are due before the newcomer"
    for survivor in first.jobs:
        desk.scheduler.wait(survivor, 0.024)
    desk.scheduler.leave(newcomer)
    desk.scheduler.wait(unanswered(newcomer, exit=1), 0.024)
    assert desk.run(0.024).jobs == [*first.jobs, newcomer]


def test_what_newcomers_lacked_is_given_back_by_going_no_deeper(model: ServedModel) -> None:
    """While 3 ms were lacking a moment ago, no job waits for a better answer.

    A refusal of long ago asks nothing: the load is over.
    """
    for asked_at, num_answered in ((0.0, 2), (MAX_DEBT_S, 0)):
        desk = Desk()
        desk.admit(*(answered(job(model, 0.5)) for _ in range(2)))
        desk.scheduler.debt.lack(0.003, 0.0)
        assert len(desk.scheduler.expire(asked_at)) == num_answered
        desk.admit(answered(job(model, 0.5)))
        assert not desk.scheduler.expire(asked_at), "it was given back"


def test_a_batch_that_runs_while_newcomers_lack_time_answers(model: ServedModel) -> None:
    for started_at, is_pressed in ((0.0, True), (MAX_DEBT_S, False)):
        desk = Desk()
        desk.admit(answered(job(model, 0.5)))
        desk.scheduler.debt.lack(0.003, 0.0)
        assert desk.run(started_at).is_pressed is is_pressed
        assert not desk.scheduler.debt.is_owed(started_at), "one row gave it back"


def test_earliest_deadline_goes_first(model: ServedModel) -> None:
    desk = Desk()
    loose, none, tight = job(model, 2 * DEFAULT_DEADLINE_S), job(model), job(model, 0.0125)
    for newcomer in (loose, none, tight):
        desk.admit(newcomer)
    assert desk.run().jobs == [tight], "its slack leaves no time for a larger batch"
    assert desk.run().jobs == [loose, none], "beyond the default deadline all are equal: in order"


def test_batches_never_mix_segments(model: ServedModel) -> None:
    desk = Desk()
    desk.admit(job(model), unanswered(job(model), exit=1), job(model))
    batches = [desk.run(), desk.run()]
    assert [(batch.step.exit, len(batch.jobs)) for batch in batches] == [(1, 2), (2, 1)]


def test_batch_grows_while_it_gains_and_meets_the_deadline(model: ServedModel) -> None:
    assert best_rows(model.step(1), [1.0] * 4) == 4
    assert best_rows(model.step(1), [0.0125] * 4) == 2, "two graphs of 6 ms, not of 7 ms"
    assert best_rows(model.step(1), [1.0, 0.0125, 1.0, 1.0]) == 2, "the tightest limits it"
    assert best_rows(model.step(1), [0.0125, 0.009]) == 2, "a job late anyway limits nothing"
    assert best_rows(model.step(1), [-1.0] * 4) == 4
    assert best_rows(model.step(1), [-1.0] * 4, 0.0125) == 2, "it takes no longer than it may"
    assert best_rows(model.step(1), [1.0] * 4, 0.009) == 1, "one always runs"
    assert best_rows(model.step(1, is_head=True), [0.0065] * 4) == 2, "one graph of 6 ms"


def test_batch_is_no_larger_than_what_was_profiled(model: ServedModel) -> None:
    desk = Desk()
    desk.admit(*(job(model) for _ in range(9)))
    assert len(desk.run().jobs) == 4


def test_short_steps_run_on_the_event_loop_in_batches_that_do_not_hold_it_up(
    digits_bundle: Bundle,
) -> None:
    """A row takes 3.6 ms: four of them less than 16 ms, five more."""
    profile = made_profile(per_row_s=0.0018, batch_sizes=(1, 2, 4, 8))
    short, long = served(digits_bundle, profile), served(digits_bundle, made_profile(0.0051))
    assert [short.step(exit).inline_rows for exit in (1, 2, 3)] == [4, 4, 4]
    assert [long.step(exit).inline_rows for exit in (1, 2, 3)] == [0, 0, 0]
    desk = Desk()
    desk.admit(*(job(long) for _ in range(2)))
    on_thread = desk.next_batch()
    assert not on_thread.is_inline
    desk.admit(job(long))
    assert desk.scheduler.next_batch(0.0) is None, "the only lane is busy"
    desk.admit(*(job(short) for _ in range(6)))
    inline = desk.next_batch()
    assert inline.is_inline
    assert len(inline.jobs) <= 4
    assert {each.model for each in inline.jobs} == {short}


def test_a_batch_holds_up_the_loop_no_longer_than_the_tightest_budget_of_late_allows(
    digits_bundle: Bundle,
) -> None:
    """A batch takes 2 ms and 1 more a row; a quarter of a budget of 17 ms leaves room for two."""
    profile = made_profile(per_row_s=0.0005, fixed_s=0.001, batch_sizes=(1, 2, 4, 8))
    short = served(digits_bundle, profile)
    for budget_s, num_together in ((None, 8), (0.017, 2)):
        desk = Desk()
        for _ in range(8):
            desk.admit(job(short))
        tight = job(short, budget_s)
        desk.admit(tight)
        desk.scheduler.leave(tight)
        assert len(desk.run().jobs) == num_together


def test_idle_lanes_share_a_queue(model: ServedModel) -> None:
    desk = Desk(num_lanes=3)
    desk.admit(*(job(model) for _ in range(5)))
    assert [len(desk.next_batch().jobs) for _ in range(3)] == [2, 2, 1]
    assert desk.scheduler.next_batch(0.0) is None


def test_a_better_answer_does_not_hold_up_a_first_one_in_its_batch_where_time_is_short(
    model: ServedModel,
) -> None:
    for latency_s, is_together in ((0.5, True), (0.0205, False)):
        desk = Desk()
        other = answered(job(model, 0.0202), exit=2)
        waiting, better = unanswered(job(model, latency_s), exit=1), answered(job(model, 0.9))
        for each in (better, waiting, other):
            desk.admit(each)
        if is_together:
            assert desk.run().jobs == [other]
        assert desk.run().jobs == ([waiting, better] if is_together else [waiting])


def test_a_job_that_waits_too_long_answers_with_what_it_has(model: ServedModel) -> None:
    """The next segment and its head take 10 ms, 1 ms is for delivery: the alarm is at 89 ms."""
    desk = Desk()
    early, late = answered(job(model, 0.1)), answered(job(model, 0.2))
    for each in (late, early):
        desk.admit(each)
    scheduler = desk.scheduler
    assert scheduler.next_alarm() == pytest.approx(0.089)
    assert scheduler.expire(0.0889) == []
    assert scheduler.expire(scheduler.next_alarm()) == [early]
    assert early.queue_s == pytest.approx(0.089), "the wait for an answer that it does without"
    assert scheduler.next_alarm() == pytest.approx(0.189)
    assert scheduler.queue_depth == 1


def test_a_job_that_waits_too_long_without_an_answer_gets_one_from_the_exit_it_has_reached(
    model: ServedModel,
) -> None:
    desk = Desk()
    waiting = unanswered(job(model, 0.1), exit=2)
    desk.admit(waiting)
    assert desk.scheduler.expire(0.095) == []
    batch = desk.next_batch(0.096)
    assert batch.step == model.step(2, is_head=True)
    assert batch.jobs == [waiting]
    assert waiting.queue_s == pytest.approx(0.096)
    assert batch.ends_at == pytest.approx(0.101), "a head alone takes 5 ms"


def test_jobs_expire_while_their_batch_runs_and_while_every_lane_is_busy(
    model: ServedModel,
) -> None:
    desk = Desk()
    running, waiting = answered(job(model, 0.1)), answered(job(model, 0.15))
    desk.admit(running)
    desk.next_batch(0.085)
    desk.admit(waiting)
    assert desk.scheduler.next_batch(0.086) is None
    assert desk.scheduler.expire(0.0985) == []
    assert desk.scheduler.expire(0.1 - DELIVERY_S) == [running]
    assert desk.scheduler.expire(0.139) == [waiting]


def test_in_a_hurry_all_are_due_now(model: ServedModel) -> None:
    desk = Desk()
    running, newcomer = answered(job(model, 0.5)), job(model, 0.6)
    reached, waiting = unanswered(job(model, 0.7), exit=1), answered(job(model, 0.8), exit=2)
    desk.admit(running)
    desk.next_batch()
    for each in (newcomer, reached, waiting):
        desk.admit(each)
    desk.scheduler.hurry(0.1)
    assert set(desk.scheduler.expire(0.1)) == {running, waiting}
    assert {each.deadline for each in (running, newcomer, reached, waiting)} == {0.1}
    desk = Desk()
    desk.admit(unanswered(job(model, 0.7), exit=1))
    desk.scheduler.hurry(0.1)
    assert desk.scheduler.expire(0.1) == []
    assert desk.run(0.1).step == model.step(1, is_head=True)


def test_a_job_that_leaves_is_run_no_more(model: ServedModel) -> None:
    desk = Desk()
    staying, leaving = job(model), job(model)
    desk.admit(staying, leaving)
    assert desk.scheduler.leave(leaving)
    assert not desk.scheduler.leave(leaving)
    assert desk.next_batch().jobs == [staying]
    assert not desk.scheduler.leave(staying), "it is running"
    assert desk.admission.in_flight == 2


def test_a_first_answer_is_expected_to_wait_for_those_before_it(model: ServedModel) -> None:
    desk = Desk()
    desk.admit(*(job(model, 0.5) for _ in range(12)))
    batch = desk.next_batch()
    assert len(batch.jobs) == 4
    assert batch.ends_at == pytest.approx(0.016)
    assert batch.wait_s == pytest.approx(MARGIN * 8 * 0.004)


def test_background_jobs_run_only_where_no_other_job_waits(
    model: ServedModel, short_model: ServedModel
) -> None:
    """Not even beside one that waits for a lane of another kind."""
    desk = Desk(num_lanes=1)
    background = [job_of(demand(m, is_background=True)) for m in (model, short_model)]
    for each in background:
        desk.admit(each)
    others = [job(model), job(short_model), answered(job(model), exit=2)]
    for each in others:
        desk.admit(each)
    assert desk.scheduler.queue_depth == 3
    ran = [desk.next_batch(), desk.next_batch()]
    assert {each for batch in ran for each in batch.jobs} <= set(others)
    assert desk.scheduler.next_batch(0.0) is None, "one job still waits for the busy lane"
    for batch in ran:
        desk.scheduler.done(batch)
    assert set(desk.run().jobs) <= set(others)
    assert {each for _ in range(2) for each in desk.run().jobs} == set(background)
    assert desk.scheduler.next_batch(0.0) is None


def test_background_jobs_do_not_join_the_batches_of_others(model: ServedModel) -> None:
    desk = Desk()
    shadow, asked = job_of(demand(model, is_background=True)), job(model)
    desk.admit(shadow)
    desk.admit(asked)
    assert [desk.run().jobs, desk.run().jobs] == [[asked], [shadow]]


@pytest.mark.parametrize("is_running", [False, True])
def test_an_alarm_never_rings_for_nothing(model: ServedModel, is_running: bool) -> None:
    """However times are rounded: a simulated clock would stand still."""
    for latency_s in np.random.default_rng(0).uniform(0.02, 0.2, 2000).tolist():
        desk = Desk()
        waiting = answered(job(model, latency_s))
        desk.admit(waiting)
        if is_running:
            desk.next_batch()
        assert desk.scheduler.expire(desk.scheduler.next_alarm()) == [waiting]


def test_a_background_batch_is_short_or_one_row(
    model: ServedModel, short_model: ServedModel
) -> None:
    """A row of `short_model` takes 0.75 ms with segment and head, two take 1.25."""
    for each in (model, short_model):
        desk = Desk()
        for _ in range(4):
            desk.admit(job_of(demand(each, is_background=True)))
        assert len(desk.next_batch().jobs) == 1


def test_background_jobs_that_wait_long_are_not_cut_short(short_model: ServedModel) -> None:
    desk = Desk()
    waiting = demand(short_model, is_background=True)
    slots = desk.admission.admit(waiting, 1, 0.0)
    assert slots.deadline == slots.due == inf
