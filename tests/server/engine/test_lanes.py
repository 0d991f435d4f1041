import asyncio
import os
import threading
from queue import SimpleQueue

import numpy as np
import pytest

from server.engine.compute import Computed, Task
from server.engine.job import Given
from server.engine.lanes import NICENESS, LaneRun, ThreadLane
from server.engine.model import ServedModel


def niceness() -> int:
    """Of the thread that asks."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_a_lane_goes_behind_a_server_that_is_nice_itself(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To go before it, a lane would need rights, and without them it would end."""

    def compute(*_: object) -> Computed:
        found.put(niceness())
        return Computed()

    def start() -> None:
        found.put(os.nice(10))
        loop = asyncio.new_event_loop()
        loop.close()
        lane = ThreadLane("lane", loop)
        lane.start(LaneRun(Task(model, 1, False, [Given.of(np.zeros(1))], []), print))
        lane.end()

    found = SimpleQueue[int]()
    monkeypatch.setattr("server.engine.lanes.compute", compute)
    server = threading.Thread(target=start)  # its niceness is its own
    server.start()
    server.join()
    assert found.get(timeout=10) == min(niceness() + 10, 19)
    assert found.get(timeout=10) == min(niceness() + 10 + NICENESS, 19)
