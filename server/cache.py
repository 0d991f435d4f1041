"""Answers kept for identical inputs, by model and content.

What is kept of a row is what its exit heads said. The stop rule goes over that as over a run, so
that one deep run answers every wish that stops no deeper.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from models.bundle.policy import Policy, heads_without_budget, stop_reason
from server.engine.job import Answer, Demand, Outcome
from server.engine.model import ServedModel

ROW_BYTES, ANSWER_BYTES = 480, 320
"""What a row and each of its answers take beside the probabilities, measured."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the heads that ran said of a row, by exit; `is_cut` as in Given."""

    answers: Mapping[int, Answer]
    is_cut: bool

    @property
    def num_bytes(self) -> int:
        sizes = (ANSWER_BYTES + answer.probabilities.nbytes for answer in self.answers.values())
        return ROW_BYTES + sum(sizes)


Found = tuple[Outcome, bool]
"""The outcome of a row, and whether its text was cut."""


class Cache:
    """Rows in at most `max_bytes`; the least recently used leaves first."""

    def __init__(self, max_bytes: int) -> None:
        self.num_bytes, self._max_bytes = 0, max_bytes
        self._rows: OrderedDict[tuple[ServedModel, bytes], Kept] = OrderedDict()

    def find(self, demand: Demand, digests: Sequence[bytes], now: float) -> list[Found] | None:
        """The outcomes of a request's rows, or None where one of them has to run."""
        keys, found = [(demand.model, digest) for digest in digests], []
        for key in keys:
            if (kept := self._rows.get(key)) is None:
                return None
            if (outcome := replayed(demand.policy, kept.answers, now)) is None:
                return None
            found.append((outcome, kept.is_cut))
        for key in keys:
            self._rows.move_to_end(key)
        return found

    def keep(
        self, model: ServedModel, digest: bytes, answers: Iterable[Answer], *, is_cut: bool
    ) -> None:
        """Adds what heads said of a row to what is kept of it."""
        key = model, digest
        # copies: the probabilities of a whole batch lie in one array
        said = {
            each.exit: replace(each, probabilities=each.probabilities.copy()) for each in answers
        }
        if key in self._rows:
            said |= self._rows[key].answers
            self._drop(key)
        self._rows[key] = kept = Kept(said, is_cut)
        self.num_bytes += kept.num_bytes
        while self.num_bytes > self._max_bytes:
            self._drop(next(iter(self._rows)))

    def forget(self, model: ServedModel) -> None:
        """The model is not served any more."""
        for key in [key for key in self._rows if key[0] is model]:
            self._drop(key)

    def _drop(self, key: tuple[ServedModel, bytes]) -> None:
        self.num_bytes -= self._rows.pop(key).num_bytes


def digests_of(sources: Iterable[bytes]) -> list[bytes]:
    """The SHA-256 of each row's source."""
    return [sha256(source).digest() for source in sources]


def replayed(policy: Policy, answers: Mapping[int, Answer], now: float) -> Outcome | None:
    """The outcome of a run that no budget cuts short; None where a head did not run that it asks.

    It takes no energy and no time but that of finding it.
    """
    asked: list[Answer] = []
    for exit, limit in heads_without_budget(policy):
        if exit not in answers:
            break
        asked.append(replace(answers[exit], at_s=now))
        if (reason := stop_reason(policy, exit, asked[-1].confidence, limit)) is not None:
            return Outcome(asked[-1], reason, 0.0, 0.0, 0.0, 0, (), tuple(asked), now)
    return None
