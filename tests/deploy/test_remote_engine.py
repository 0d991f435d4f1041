"""The ingress's engine without a cluster: slots are taken and given back however a request ends."""

import asyncio
import time
import warnings
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from models.bundle.bundle import Bundle
from models.bundle.policy import policy_of_threshold
from server.engine.job import Budget, Demand, Given, Job, Outcome
from server.engine.model import ServedModel
from server.errors import Overloaded, Unavailable
from server.running import Result, Results
from tests.server.conftest import made_profile, served
from tests.server.engines import results_of, running

if find_spec("ray") is None:
    pytest.skip("needs requirements/ray.txt", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    from deploy.ray import remote_engine
    from deploy.ray.remote_engine import RemoteEngine
from deploy.ray.work import Work, shifted

ROW = Given.of(np.zeros((8, 8, 1), np.uint8))
NO_BUDGET = Budget()


class Replicas:
    """A replica in this process: an engine, behind the one call that a Ray handle has."""

    def __init__(self, model: ServedModel) -> None:
        self.answer, self.model, self.seen = self, model, list[Work]()

    async def remote(self, work: Work) -> list[Any]:
        self.seen.append(work)
        now = time.monotonic()
        async with running() as engine:
            ended = await results_of(engine, self.model, work.policy, work.budget)
        return [shifted(each, -now) for each in ended if isinstance(each, Outcome)]


def asked(model: ServedModel, budget: Budget = NO_BUDGET) -> Demand:
    return Demand(model, policy_of_threshold(1.0, 3), budget, time.monotonic())


def test_slots_come_back_after_an_answer_a_failure_to_decode_and_a_departure(
    digits_bundle: Bundle,
) -> None:
    model = served(digits_bundle, made_profile(per_row_s=0.001))

    async def run() -> None:
        replicas = Replicas(model)
        handle: Any = replicas
        engine, demand = RemoteEngine(handle, capacity=2), asked(model)
        with pytest.raises(Overloaded, match="0 of 2 slots are taken"):
            engine.admit(demand, 3)
        engine.release(engine.admit(demand, 2))
        results = Results(1)
        job = Job(demand, ROW, lambda result: results.settle(0, result))
        engine.submit(engine.admit(demand, 1, strict=True), [job])
        assert engine.in_flight() == 1
        (outcome,) = await results.all
        assert isinstance(outcome, Outcome)
        assert (outcome.answer.exit, len(outcome.runs)) == (3, 3)
        assert demand.arrival < outcome.ended_at < time.monotonic()
        gone = Job(demand, ROW, lambda _: None)
        engine.submit(engine.admit(demand, 1), [gone])
        engine.cancel([gone])
        while engine.in_flight():
            await asyncio.sleep(0.01)
        assert [work.strict for work in replicas.seen] == [True]

    asyncio.run(asyncio.wait_for(run(), 10))


def test_background_has_slots_of_its_own(digits_bundle: Bundle) -> None:
    async def run() -> None:
        model = served(digits_bundle, made_profile(per_row_s=0.001))
        handle: Any = Replicas(model)
        engine, demand = RemoteEngine(handle, capacity=2), asked(model)
        background = replace(demand, is_background=True)
        slots = engine.admit(background, 2)
        with pytest.raises(Overloaded, match="2 of 2 slots are taken"):
            engine.admit(background, 1)
        assert engine.in_flight() == 0, "what waits for idle time is no load"
        engine.admit(demand, 2)
        engine.release(slots)
        assert engine.in_flight() == 2
        engine.admit(background, 2)

    asyncio.run(run())


def test_the_time_there_and_back_comes_out_of_the_budget(digits_bundle: Bundle) -> None:
    async def run() -> tuple[float, float, float]:
        replicas = Replicas(served(digits_bundle, made_profile(per_row_s=0.001)))
        handle: Any = replicas
        engine, results = RemoteEngine(handle, capacity=2), Results(1)
        for _ in range(100):
            engine.pace.delivered(0.05)
        demand = asked(replicas.model, Budget(latency_s=60.0))
        job = Job(demand, ROW, lambda result: results.settle(0, result))
        engine.submit(engine.admit(demand, 1), [job])
        await results.all
        (work,) = replicas.seen
        assert work.budget.latency_s is not None
        return work.budget.latency_s, engine.pace.delivery_s, time.monotonic() - demand.arrival

    left_s, delivery_s, took_s = asyncio.run(asyncio.wait_for(run(), 10))
    assert delivery_s == pytest.approx(0.05, rel=0.1)
    assert 60.0 - delivery_s - took_s < left_s <= 60.0 - delivery_s


def test_progress_has_every_answer_before_the_outcome(digits_bundle: Bundle) -> None:
    model, told = served(digits_bundle, made_profile(per_row_s=0.001)), list[int]()

    async def run() -> None:
        handle: Any = Replicas(model)
        engine, demand, results = RemoteEngine(handle, capacity=2), asked(model), Results(1)

        def deliver(result: Result) -> None:
            told.append(0)
            results.settle(0, result)

        job = Job(demand, ROW, deliver, lambda answer: told.append(answer.exit))
        engine.submit(engine.admit(demand, 1), [job])
        await results.all

    asyncio.run(asyncio.wait_for(run(), 10))
    assert told == [1, 2, 3, 0]


def test_replicas_that_cannot_be_asked_are_unavailable(
    digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Ray has no replica left: it raises what is no RayError."""
    monkeypatch.setattr(remote_engine, "PAUSE_S", 0.0)

    class NoReplicas(Replicas):
        async def remote(self, work: Work) -> list[Any]:
            self.seen.append(work)
            raise LookupError("made to fail")

    async def run() -> tuple[Any, int, int]:
        replicas = NoReplicas(served(digits_bundle, made_profile(per_row_s=0.001)))
        handle: Any = replicas
        engine, demand, results = RemoteEngine(handle, 2), asked(replicas.model), Results(1)
        job = Job(demand, ROW, lambda result: results.settle(0, result))
        engine.submit(engine.admit(demand, 1), [job])
        (result,) = await results.all
        await asyncio.sleep(0)
        return result, len(replicas.seen), engine.in_flight()

    result, num_asked, in_flight = asyncio.run(asyncio.wait_for(run(), 10))
    assert isinstance(result, Unavailable)
    assert (num_asked, in_flight) == (remote_engine.ATTEMPTS, 0)
