"""A worker: the thread that runs batches, and what it has in hand."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Self

import onnxruntime as ort

from server.engine.scheduler import Batch

NICENESS = 5
"""The event loop goes first: while it waits for a core nobody is admitted, refused or answered."""


class Worker:
    """A thread that calls `work` with this worker; its batch is guarded by the engine's lock."""

    def __init__(self, name: str, work: Callable[[Self], None]) -> None:
        self.batch: Batch | None = None
        self.options = ort.RunOptions()
        self.thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self.thread.start()

    def _run(self, work: Callable[[Self], None]) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        work(self)

    def take(self, batch: Batch | None) -> None:
        self.batch = batch
        if self.options.terminate:
            self.options = ort.RunOptions()

    def is_lost(self, now: float, stall_s: float) -> bool:
        """Whether the thread has died, or is `stall_s` behind what its batch was to take."""
        if not self.thread.is_alive():
            return True
        return self.batch is not None and now > self.batch.ends_at + stall_s

    def stop_run(self) -> None:
        """Ends the graph that runs now, between two of its nodes."""
        self.options.terminate = True
