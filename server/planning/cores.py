"""Cores of a simulated machine."""

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from math import inf


@dataclass(slots=True, eq=False)
class Work:
    """What a thread has to do, and what happens once it is done; the lowest turn goes first."""

    left_s: float
    turn: float
    then: Callable[[], None]


class Cores:
    """Gives cores to the threads whose turn it is; they interrupt others.

    Any number run at once where `num` is None.
    """

    def __init__(self, num: int | None) -> None:
        self._num = num
        self._now = 0.0
        self._works: list[Work] = []

    def add(self, work: Work) -> None:
        insort(self._works, work, key=lambda each: each.turn)

    def next_end(self) -> float:
        """When the first of those that run is done, if nothing more comes."""
        return self._now + min((work.left_s for work in self._running()), default=inf)

    def run_until(self, now: float) -> None:
        """Time passes; until the next end at most."""
        for work in self._running():
            work.left_s -= now - self._now
        self._now = now

    def take_done(self) -> Work:
        """Whoever is done first; it is no longer here."""
        work = min(self._running(), key=lambda each: each.left_s)
        self._works.remove(work)
        return work

    def _running(self) -> list[Work]:
        return self._works[: self._num]
