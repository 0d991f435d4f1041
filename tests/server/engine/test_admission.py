"""Requests that are admitted and requests that are refused, at given times.

A first answer takes 10 ms alone, and 4 ms a row in batches of four, with a margin of a tenth.
A response takes 1 ms.
"""

import pytest

from models.bundle.policy import policy_of_threshold
from server.engine.admission import DEFAULT_DEADLINE_S
from server.engine.breaker import MAX_FAILURES
from server.engine.job import Budget, Demand
from server.engine.model import ServedModel
from server.engine.pace import DELIVERY_S
from server.errors import Infeasible, Overloaded, Unavailable
from tests.server.engine.desk import Desk, answered, demand, job, job_of

TOO_LATE = r"^the first answer would come too late$"
OTHERS_TOO_LATE = r"^the first answer of another would come too late$"


def test_admission_is_all_or_nothing(model: ServedModel) -> None:
    desk = Desk(max_in_flight=3)
    desk.admit(job(model), job(model))
    with pytest.raises(Overloaded, match="2 of 3"):
        desk.admit(job(model), job(model))
    assert (desk.admission.in_flight, desk.scheduler.queue_depth) == (2, 2)
    desk.admission.free(demand(model), 2)
    desk.admit(job(model), job(model), job(model))
    assert desk.admission.in_flight == 3


def test_background_jobs_have_slots_of_their_own(model: ServedModel) -> None:
    desk = Desk(max_in_flight=1)
    shadow = demand(model, is_background=True)
    desk.admit(job(model))
    desk.admit(job_of(shadow))
    assert (desk.admission.in_flight, desk.admission.num_background) == (1, 1)
    with pytest.raises(Overloaded, match="1 of 1"):
        desk.admit(job_of(shadow))
    desk.admission.free(shadow, 1)
    assert (desk.admission.in_flight, desk.admission.num_background) == (1, 0)
    assert desk.scheduler.queue_depth == 1


def test_a_newcomer_that_would_come_too_late_is_refused(model: ServedModel) -> None:
    """The lane is busy for 16 ms with a batch of four."""
    desk = Desk()
    desk.admit(*(job(model, 0.5) for _ in range(4)))
    running = desk.next_batch()
    desk.admit(*(job(model, 0.06) for _ in range(4)))
    with pytest.raises(Overloaded, match=TOO_LATE):
        desk.admit(job(model, 0.0265))
    assert (desk.admission.in_flight, desk.scheduler.queue_depth) == (8, 4)
    desk.admit(job(model, 0.0275))
    desk.scheduler.done(running)
    desk.admit(job(model, 0.0265))


def test_a_refusal_says_for_how_long_others_like_it_are_refused_too(model: ServedModel) -> None:
    """The lane is busy for 16 ms; then the newcomer takes 10, and its response 1: 27 of 26.5 ms."""
    desk = Desk()
    desk.admit(*(job(model, 0.5) for _ in range(4)))
    desk.next_batch()
    with pytest.raises(Overloaded, match=TOO_LATE) as refused:
        desk.admit(job(model, 0.0265))
    late_s = refused.value.late_s
    assert late_s == pytest.approx(0.0005)
    later = job_of(demand(model, 0.0265, late_s - 1e-4))
    with pytest.raises(Overloaded, match=TOO_LATE):
        desk.admit(later, now=late_s - 1e-4)
    desk.admit(job_of(demand(model, 0.0265, late_s + 1e-4)), now=late_s + 1e-4)


def test_a_newcomer_is_refused_for_the_sake_of_those_before_it(model: ServedModel) -> None:
    desk = Desk()
    for _ in range(8):
        desk.admit(job(model, 0.053))
    with pytest.raises(Overloaded, match=OTHERS_TOO_LATE):
        desk.admit(*(job(model, 0.05) for _ in range(6)))
    desk.admit(*(job(model, 0.5) for _ in range(6)))


def test_the_last_of_a_long_queue_is_asked_too(model: ServedModel) -> None:
    """80 rows take 352 ms, and the last is due after 354."""
    desk = Desk()
    desk.admit(*(job(model, 0.355) for _ in range(80)))
    with pytest.raises(Overloaded, match=OTHERS_TOO_LATE):
        desk.admit(job(model, 0.03))
    desk.admit(job(model, 0.365))


def test_rows_that_are_being_decoded_count(model: ServedModel) -> None:
    desk = Desk()
    slots = desk.admission.admit(demand(model, 0.5), 4, 0.0)
    with pytest.raises(Overloaded, match=TOO_LATE):
        desk.admit(job(model, 0.025))
    desk.admission.decoded(slots)
    desk.admit(job(model, 0.025))


def test_depth_makes_room_better_answers_keep_no_newcomer_out(model: ServedModel) -> None:
    desk = Desk()
    desk.admit(*(answered(job(model, 0.0205), exit=2) for _ in range(50)))
    desk.admit(job(model, 0.0205))


def test_a_budget_that_no_server_could_meet_is_ignored_and_gets_no_priority(
    model: ServedModel,
) -> None:
    desk = Desk()
    hopeless, feasible = job(model, 0.005), job(model, 0.0125)
    desk.admit(hopeless)
    desk.admit(feasible)
    assert hopeless.due == DEFAULT_DEADLINE_S - DELIVERY_S
    assert desk.run().jobs == [feasible]


def test_a_strict_budget_that_cannot_be_met_is_refused(model: ServedModel) -> None:
    desk = Desk()
    with pytest.raises(Infeasible, match=r"^exit 1 needs 11.000 ms, 10.500 ms are left$"):
        desk.admit(job(model, 0.0105), strict=True)
    desk.admit(job(model, 0.0115), strict=True)
    policy = policy_of_threshold(1.0, 3)
    for energy_j, is_enough in ((0.079, False), (0.081, True)):  # 10 ms at 8 W
        saving = job_of(Demand(model, policy, Budget(energy_j=energy_j), 0.0))
        if is_enough:
            desk.admit(saving, strict=True)
        else:
            with pytest.raises(Infeasible, match=r"^exit 1 needs 80\.000 mJ$"):
                desk.admit(saving, strict=True)
    assert desk.admission.in_flight == 2


def test_a_budget_spent_on_waiting_is_refused_but_one_spent_on_its_own_work_is_not(
    model: ServedModel,
) -> None:
    desk = Desk()
    waited, worked = job_of(demand(model, 0.03, lag_s=0.025)), job(model, 0.03)
    with pytest.raises(Overloaded, match=TOO_LATE):
        desk.admit(waited, now=0.026)
    desk.admit(worked, now=0.026)
    assert worked.due == pytest.approx(0.026 + DEFAULT_DEADLINE_S - DELIVERY_S), "no priority"


def test_patience_does_not_run_out_while_an_image_is_still_being_read(model: ServedModel) -> None:
    desk = Desk()
    slow = job(model)
    desk.admit(slow, now=5.0)
    assert slow.due == 5.0 + DEFAULT_DEADLINE_S - DELIVERY_S


def test_budgets_keep_room_for_what_a_response_takes(model: ServedModel) -> None:
    desk = Desk()
    waiting = job(model, 0.04)
    desk.admit(waiting)
    desk.run()
    desk.scheduler.wait(answered(waiting), now=0.01)
    newcomer = demand(model, 0.03, arrival=0.01)
    desk.admission.decoded(desk.admission.admit(newcomer, 1, 0.01))
    desk.admission.free(newcomer, 1)
    pace = desk.scheduler.pace
    for _ in range(20):
        pace.delivered(0.025)
    assert pace.delivery_s == pytest.approx(0.025, rel=0.01)
    with pytest.raises(Overloaded, match=TOO_LATE):
        desk.admission.admit(newcomer, 1, 0.01)
    desk.admission.free(waiting.demand, 1)
    desk.admission.admit(newcomer, 1, 0.01)  # a server with nothing else to do refuses no request


def test_a_model_whose_first_segment_is_out_of_use_is_unavailable(model: ServedModel) -> None:
    desk = Desk()
    for _ in range(MAX_FAILURES):
        model.breakers[1, False].failed(1.0)
    with pytest.raises(Unavailable, match=r"^segment 1 of digits is out of use$"):
        desk.admit(job(model), now=2.0)
    assert desk.admission.in_flight == 0
