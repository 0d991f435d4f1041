"""Lanes run one batch at a time: inline on the event loop, or on a thread of their own."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from math import inf
from queue import SimpleQueue

import onnxruntime as ort

from server.engine.compute import Computed, Task, compute
from server.engine.scheduler import Batch

NICENESS = 5
"""The event loop goes first: without a core it admits, refuses and answers no request."""
WATCH_S = 0.1
"""Time between two looks at a run on the event loop."""
SUSPENDED_S = 2.0
"""Two looks at the threads are half a second apart, unless the process is suspended."""
MAX_INLINE_S = 1.0
"""Bound of a run on the event loop, which is expected to take at most `INLINE_S`."""

Done = Callable[[Computed], None]


@dataclass(slots=True, eq=False)
class LaneRun:
    """A task on a lane; on a thread it is ended at `ends_by`. Options serve one run only."""

    task: Task
    done: Done
    ends_by: float = inf
    options: ort.RunOptions = field(default_factory=ort.RunOptions)

    def stop(self) -> None:
        """Ends the graph that runs now, between two of its nodes."""
        self.options.terminate = True


class InlineLane:
    """Runs at once, on the event loop. A watcher ends a run that passes its bound."""

    def __init__(self) -> None:
        self._run: LaneRun | None = None
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="offramp-watch", daemon=True)
        self._watcher.start()

    def start(self, run: LaneRun) -> None:
        self._run = run
        computed = compute(run.task, run.options)
        self._run = None
        run.done(computed)

    def end(self) -> None:
        self._is_over.set()

    def _watch(self) -> None:
        """Runs on a thread, since the event loop is busy with the graph.

        It counts its looks at a run, not the time: while the process is suspended, neither goes on.
        """
        watched, num_looks = None, 0
        while not self._is_over.wait(WATCH_S):
            run = self._run
            num_looks = num_looks + 1 if run is watched else 0
            watched = run
            if run is not None and num_looks * WATCH_S >= MAX_INLINE_S:
                run.stop()


class ThreadLane:
    """A thread that runs what it is given, and calls back on the event loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.run: LaneRun | None = None
        self._loop = loop
        self._tasks: SimpleQueue[LaneRun | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def start(self, run: LaneRun) -> None:
        self.run = run
        self._tasks.put(run)

    def end(self) -> None:
        """Lets the thread end once it has nothing more to run."""
        self._tasks.put(None)

    def give_up(self) -> LaneRun | None:
        """Returns its run and ignores the result; the thread ends when the run does."""
        run, self.run = self.run, None
        self.end()
        return run

    def is_lost(self, now: float) -> bool:
        """Whether the thread has died, or its run has passed its bound."""
        if not self.thread.is_alive():
            return True
        return self.run is not None and now > self.run.ends_by

    def _work(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.nice(NICENESS)
        while (run := self._tasks.get()) is not None:
            computed = compute(run.task, run.options)
            with suppress(RuntimeError):  # the loop has closed: this thread was given up
                self._loop.call_soon_threadsafe(self._finish, run, computed)

    def _finish(self, run: LaneRun, computed: Computed) -> None:
        if self.run is run:  # else the lane was given up
            self.run = None
            run.done(computed)


class Lanes:
    """One lane on the event loop, and `num_lanes` threads.

    A thread that dies, or that is `stall_s` behind what its batch was to take, is replaced.
    """

    def __init__(self, num_lanes: int, stall_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._stall_s, self._loop = stall_s, loop
        self._numbers = count()
        self._inline = InlineLane()
        self._threads = {self._new_thread() for _ in range(num_lanes)}
        self._looked_at = inf
        self._busy: dict[Batch, ThreadLane] = {}

    def start(self, batch: Batch, task: Task, done: Done) -> None:
        """Runs the task of a batch where it belongs; `done` is told what it gave, on the loop."""
        if batch.is_inline:
            return self._inline.start(LaneRun(task, done))
        lane = next(lane for lane in self._threads if lane.run is None)
        self._busy[batch] = lane
        return lane.start(LaneRun(task, done, batch.ends_at + self._stall_s))

    def done(self, batch: Batch) -> None:
        """The batch has ended."""
        self._busy.pop(batch, None)

    def stop_idle_runs(self) -> None:
        """Ends the runs whose jobs are all over."""
        for batch, lane in self._busy.items():
            if lane.run is not None and all(job.is_over for job in batch.jobs):
                lane.run.stop()

    def is_working(self, now: float) -> bool:
        """Whether every thread is alive and within its bound."""
        return not any(lane.is_lost(now) for lane in self._threads)

    def replace_lost(self, now: float) -> list[tuple[str, Batch | None]]:
        """Replaces lost threads; returns their names and the batches that they had.

        Right after a suspension of the process, in which no thread ran either, none is lost.
        """
        looked_at, self._looked_at = self._looked_at, now
        if now - looked_at > SUSPENDED_S:
            return []
        lost = [lane for lane in self._threads if lane.is_lost(now)]
        batches = {lane: batch for batch, lane in self._busy.items()}
        for lane in lost:
            self._threads.remove(lane)
            self._threads.add(self._new_thread())
            if (run := lane.give_up()) is not None:
                run.stop()
            if lane in batches:
                del self._busy[batches[lane]]
        return [(lane.thread.name, batches.get(lane)) for lane in lost]

    def end(self, deadline: float) -> None:
        """Ends the threads, except one that still runs at the deadline."""
        self._inline.end()
        for lane in self._threads:
            lane.end()
        for lane in self._threads:
            lane.thread.join(max(0.0, deadline - time.monotonic()))

    def _new_thread(self) -> ThreadLane:
        return ThreadLane(f"offramp-lane-{next(self._numbers)}", self._loop)
