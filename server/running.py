"""A request on its way through the service: encoded, running, served."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from server.engine.job import Answer, Demand, Given, Job, Outcome

Result = Outcome | Exception
Rows = Sequence[Given]
Progress = Callable[[int, Answer], None]
"""Told a row's number and its answer."""


class Encoded(Protocol):
    """The rows of a request before they are decoded."""

    @property
    def num_rows(self) -> int: ...
    @property
    def length(self) -> int:
        """The length bucket that they are expected to have, 0 where all rows have one size."""

    def decode_here(self) -> Rows | None:
        """The rows, or None where decoding takes longer than handing it to a thread."""

    def parts(self) -> Sequence[Callable[[], Rows]]:
        """Steps that decode the rows, for a thread: rows of other requests come between them."""

    def sources(self) -> Sequence[bytes]:
        """For every row, bytes that no other row for the model has."""


class Results:
    """The results of a request's rows; `all` is done when every row has one, in order."""

    def __init__(self, num_rows: int) -> None:
        self.all: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        self._num_rows = num_rows
        self._results: dict[int, Result] = {}

    def settle(self, row: int, result: Result) -> None:
        """Notes the result of a row, unless the request is not waited for any more."""
        self._results[row] = result
        if len(self._results) == self._num_rows and not self.all.done():
            self.all.set_result([self._results[number] for number in range(self._num_rows)])


@dataclass(slots=True)
class Running:
    """An admitted request: its jobs, their results, and the seconds that decoding took.

    `digests` are those of its rows where their answers are to be kept.
    """

    demand: Demand
    jobs: list[Job]
    results: Results
    decode_s: float
    digests: Sequence[bytes] = ()

    @property
    def stage(self) -> str:
        """How far the jobs have come, for the count of clients that went away."""
        return "segment" if any(job.exit for job in self.jobs) else "queue"


@dataclass(slots=True)
class Served:
    """The outcomes of a request's rows, `total_s` after its arrival, and which texts were cut.

    `is_cached` says that they were kept ones; it is None where no answers are kept.
    """

    demand: Demand
    outcomes: list[Outcome]
    decode_s: float
    total_s: float
    are_cut: Sequence[bool]
    is_cached: bool | None = None

    @property
    def exits(self) -> list[int]:
        return [outcome.answer.exit for outcome in self.outcomes]
