"""What is kept answers as a run would have, or not at all; it stays within its bytes."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bundle.policy import Policy, StopReason, policy_of_threshold
from server.cache import Cache, digests_of, replayed
from server.engine.job import Answer, Budget, Demand, Outcome
from server.engine.model import ServedModel

NUM_EXITS = 4
CONFIDENCES = st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    thresholds = draw(st.tuples(*[st.none() | CONFIDENCES] * (NUM_EXITS - 1)))
    max_exit = draw(st.integers(1, NUM_EXITS))
    return Policy((*thresholds, None), draw(st.integers(1, max_exit)), max_exit)


def answer(exit: int, confidence: float = 0.5, num_labels: int = 10) -> Answer:
    return Answer(exit, np.full(num_labels, 1 / num_labels, np.float32), confidence, 0.0)


def run(policy: Policy, answers: list[Answer]) -> tuple[list[int], StopReason]:
    """The exits whose heads a run asks, the last of which answers, and why it stops there."""
    asked = []
    for exit in range(1, policy.max_exit):
        threshold = policy.thresholds[exit - 1]
        if exit >= policy.min_exit and threshold is not None:
            asked.append(exit)
            if answers[exit - 1].confidence > threshold:
                return asked, StopReason.CONFIDENT
    exit, threshold = policy.max_exit, policy.thresholds[policy.max_exit - 1]
    if threshold is not None and answers[exit - 1].confidence > threshold:
        return [*asked, exit], StopReason.CONFIDENT
    reason = StopReason.FINAL if exit == NUM_EXITS else StopReason.EXIT_LIMIT
    return [*asked, exit], reason


@given(st.lists(CONFIDENCES, min_size=4, max_size=4), policies(), policies())
def test_a_kept_answer_is_that_of_a_run_or_there_is_none(
    confidences: list[float], before: Policy, now: Policy
) -> None:
    answers = [answer(exit, said) for exit, said in enumerate(confidences, start=1)]
    kept = {exit: answers[exit - 1] for exit in run(before, answers)[0]}
    asked, reason = run(now, answers)
    outcome = replayed(now, kept, 7.0)
    assert (outcome is not None) == (set(asked) <= kept.keys())
    if outcome is not None:
        assert [said.exit for said in outcome.answers] == asked
        assert (outcome.answer, outcome.stop_reason) == (outcome.answers[-1], reason)
        assert outcome.answer.probabilities is kept[asked[-1]].probabilities
        assert (outcome.queue_s, outcome.compute_s, outcome.energy_j, outcome.macs) == (0, 0, 0, 0)
        assert (outcome.ended_at, outcome.answer.at_s, outcome.runs) == (7.0, 7.0, ())


def found(cache: Cache, model: ServedModel, *digests: bytes) -> list[Outcome] | None:
    demand = Demand(model, policy_of_threshold(1.0, NUM_EXITS, max_exit=1), Budget(), 0.0)
    said = cache.find(demand, digests, 0.0)
    return None if said is None else [outcome for outcome, _ in said]


def test_the_least_recently_used_row_leaves(model: ServedModel) -> None:
    cache, digests = Cache(3000), digests_of([b"a", b"b", b"c", b"d"])
    for digest in digests[:3]:
        cache.keep(model, digest, [answer(1)], is_cut=False)
    assert found(cache, model, digests[0]) is not None
    cache.keep(model, digests[3], [answer(1)], is_cut=False)
    assert [found(cache, model, digest) is None for digest in digests] == [
        False, True, False, False,
    ]  # fmt: skip
    assert found(cache, model, digests[0], digests[1]) is None, "one of its rows has to run"
    assert found(cache, model, *digests[2:]) is not None
    cache.forget(model)
    assert cache.num_bytes == 0
    assert found(cache, model, digests[0]) is None


def test_what_is_kept_of_a_row_grows(model: ServedModel) -> None:
    cache, (digest,) = Cache(100_000), digests_of([b"a"])
    cache.keep(model, digest, [answer(1, 0.25)], is_cut=True)
    few = cache.num_bytes
    cache.keep(model, digest, [answer(1, 0.75), answer(3)], is_cut=True)
    assert few < cache.num_bytes < 2 * few
    demand = Demand(model, Policy((None,) * 4, 1, 3), Budget(), 0.0)
    ((outcome, is_cut),) = cache.find(demand, [digest], 0.0) or []
    assert (outcome.answer.exit, is_cut) == (3, True)
    (first,) = found(cache, model, digest) or []
    assert first.answer.confidence == 0.25, "the same answer as before"


def test_a_row_that_is_too_large_is_not_kept(model: ServedModel) -> None:
    cache, (digest,) = Cache(1000), digests_of([b"a"])
    cache.keep(model, digest, [answer(1, num_labels=1000)], is_cut=False)
    assert cache.num_bytes == 0


@pytest.mark.parametrize("num_exits", [1, 7])
def test_its_bytes_are_those_that_it_takes(model: ServedModel, num_exits: int) -> None:
    batch = np.ones((64, 100), np.float32)
    cache = Cache(1_000_000)
    tracemalloc.start()
    try:
        for number in range(3000):
            said = [
                Answer(exit, batch[0], 0.5 * exit, float(exit)) for exit in range(1, num_exits + 1)
            ]
            cache.keep(model, digests_of([b"%d" % number])[0], said, is_cut=False)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 990_000 < cache.num_bytes <= 1_000_000
    assert 0.7 < taken / cache.num_bytes < 1.05
