"""`offramp serve` that can be broken from outside.

SIGUSR1 kills the worker that runs the next segment. SIGUSR2 makes segment 2 of every model fail,
and the next one heals it. SIGRTMIN makes every segment leave memory behind, until the next one.
"""

import signal
from typing import ClassVar

from onnxruntime import RunOptions

import offramp
from models.bundle.runner import Arrays, SegmentRunner
from server.zoo import catalog

FAILING_EXIT = 2
LEAK_BYTES = 20_000


class Killed(BaseException):
    """No error that a worker catches."""


class BreakableRunner(SegmentRunner):
    """Runs segments, unless it has been told not to."""

    is_deadly = is_failing = is_leaky = False
    leaked: ClassVar[list[bytes]] = []

    def run_segment(self, exit: int, features: Arrays, options: RunOptions | None = None) -> Arrays:
        if BreakableRunner.is_deadly:
            BreakableRunner.is_deadly = False
            raise Killed
        if BreakableRunner.is_failing and exit == FAILING_EXIT:
            raise RuntimeError("made to fail")
        if BreakableRunner.is_leaky:
            BreakableRunner.leaked.append(b"x" * LEAK_BYTES)
        return super().run_segment(exit, features, options)


def kill(*_: object) -> None:
    BreakableRunner.is_deadly = True


def fail_or_heal(*_: object) -> None:
    BreakableRunner.is_failing = not BreakableRunner.is_failing


def leak_or_stop(*_: object) -> None:
    BreakableRunner.is_leaky = not BreakableRunner.is_leaky


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, kill)
    signal.signal(signal.SIGUSR2, fail_or_heal)
    signal.signal(signal.SIGRTMIN, leak_or_stop)
    setattr(catalog, "SegmentRunner", BreakableRunner)  # noqa: B010 - it is no part of its interface
    offramp.main()
