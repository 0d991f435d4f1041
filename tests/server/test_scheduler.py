from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.bundle.policy import policy_of_threshold
from server.catalog import ServedModel
from server.errors import Overloaded
from server.job import Answer, Budget, Job
from server.scheduler import DEFAULT_DEADLINE_S, Scheduler, best_rows

FIXTURES_STAY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def job(model: ServedModel, arrival: float = 0.0, latency_s: float | None = None) -> Job:
    image = np.zeros((8, 8, 1), np.uint8)
    return Job(model, policy_of_threshold(1.0, 3), Budget(latency_s), arrival, image, ignore)


def ignore(_: object) -> None:
    pass


def answered(a_job: Job) -> Job:
    a_job.exit = 1
    return answered_at(a_job, exit=1)


def answered_at(a_job: Job, exit: int) -> Job:
    a_job.answers.append(Answer(exit, np.full(10, 0.1, np.float32), 0.1, at_s=0.0))
    return a_job


def test_first_answers_go_before_better_ones(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10)
    urgent_but_answered = answered(job(model, latency_s=0.01))
    newcomer = job(model, latency_s=0.5)
    scheduler.admit([urgent_but_answered, newcomer], now=0.0)
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert (batch.exit, batch.jobs) == (1, [newcomer])
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert (batch.exit, batch.jobs) == (2, [urgent_but_answered])
    assert scheduler.next_batch(now=0.0) is None


def test_earliest_deadline_goes_first(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10)
    loose = job(model, latency_s=DEFAULT_DEADLINE_S * 2)
    none = job(model)
    tight = job(model, latency_s=0.001)
    scheduler.admit([loose, none, tight], now=0.0)
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert batch.jobs == [tight], "its slack leaves no time for a larger batch"
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert batch.jobs == [loose, none], "beyond the default deadline all are equal: in order"


def test_batches_never_mix_segments(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10)
    later = job(model)
    later.exit = 1
    scheduler.admit([job(model), later, job(model)], now=0.0)
    batches = [scheduler.next_batch(0.0), scheduler.next_batch(0.0)]
    assert [(b.exit, len(b.jobs)) for b in batches if b] == [(1, 2), (2, 1)]


def test_batch_grows_while_it_gains_and_meets_the_deadline(model: ServedModel) -> None:
    assert best_rows(model, 1, [1.0] * 4) == 4
    assert best_rows(model, 1, [0.0125] * 4) == 2, "two graphs of 6 ms, not of 7 ms"
    assert best_rows(model, 1, [1.0, 0.0125, 1.0, 1.0]) == 2, "whoever is in most of a hurry"
    assert best_rows(model, 1, [-1.0] * 4) == 1


def test_batch_is_no_larger_than_what_was_profiled(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=10)
    scheduler.admit([job(model) for _ in range(9)], now=0.0)
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert len(batch.jobs) == 4


def test_admission_is_all_or_nothing(model: ServedModel) -> None:
    scheduler = Scheduler(max_in_flight=3)
    scheduler.admit([job(model), job(model)], now=0.0)
    with pytest.raises(Overloaded, match="2 of 3"):
        scheduler.admit([job(model), job(model)], now=0.0)
    assert (scheduler.in_flight, scheduler.queue_depth) == (2, 2)
    scheduler.finish(2)
    scheduler.admit([job(model), job(model), job(model)], now=0.0)
    assert scheduler.in_flight == 3


@FIXTURES_STAY
@given(
    depths=st.lists(st.tuples(st.integers(1, 3), st.floats(0.001, 2)), min_size=1, max_size=20),
    workers=st.integers(1, 3),
)
def test_every_job_runs_its_segments_in_order_exactly_once(
    model: ServedModel, depths: list[tuple[int, float]], workers: int
) -> None:
    scheduler = Scheduler(max_in_flight=len(depths))
    wanted = {job(model, latency_s=latency): depth for depth, latency in depths}
    scheduler.admit(list(wanted), now=0.0)
    runs: Counter[tuple[Job, int]] = Counter()
    while batches := [b for _ in range(workers) if (b := scheduler.next_batch(0.0))]:
        for batch in batches:
            for a_job in batch.jobs:
                assert a_job.exit == batch.exit - 1
                a_job.exit = batch.exit
                runs[a_job, batch.exit] += 1
                if batch.exit < wanted[a_job]:
                    scheduler.wait(answered_at(a_job, batch.exit), 0.0)
                else:
                    scheduler.finish(1)
    assert scheduler.in_flight == scheduler.queue_depth == 0
    assert runs == Counter({(j, k): 1 for j, depth in wanted.items() for k in range(1, depth + 1)})
