"""Counts of several processes: their sum is exported, and what one counted outlives it."""

import subprocess
import sys
import threading

from benchmarks.process import ROOT
from server.telemetry.memory import Head, Memory, State, new_memory, places, shared_head
from server.telemetry.metrics import Metrics

SHED = "offramp_shed_total"
CODE = """
import os, sys
from server.telemetry.memory import Memory
from server.telemetry.metrics import Metrics
metrics = Metrics(Memory(int(sys.argv[1])))
metrics.shed("overload", 3)
metrics.decoded(0.004)
metrics.refresh()  # as a process does every 0.05 s
os.kill(os.getpid(), 9)
"""


def test_a_number_is_found_again_by_its_name() -> None:
    memory = Memory()
    memory.take(("a", "x"), 2)[1] = 5.0
    assert list(Memory(memory.fd).take(("a", "x"), 2)) == [0.0, 5.0]
    assert list(memory.take(("a", "y"), 2)) == [0.0, 0.0]


def test_threads_that_take_new_numbers_at_once_get_numbers_of_their_own() -> None:
    keys = [("a", str(number)) for number in range(300)]
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            memory, starting = Memory(), threading.Barrier(2)

            def take(keys: list[tuple[str, str]], memory: Memory, start: threading.Barrier) -> None:
                start.wait()
                for key in keys:
                    memory.take(key, 1)

            threads = [
                threading.Thread(target=take, args=(some, memory, starting))
                for some in (keys, keys[::-1])
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            found = places(memory.fd)
            assert found.keys() == set(keys)
            assert len({place.start for place in found.values()}) == len(keys)
    finally:
        sys.setswitchinterval(interval_s)


def test_every_process_exports_the_sum_of_all_counts() -> None:
    fds = [new_memory(), new_memory()]
    both = [Metrics(Memory(fd), fds) for fd in fds]
    both[0].shed("overload", 1)
    both[1].shed("overload", 2)
    both[1].decoded(0.004)
    for metrics in both:
        metrics.refresh()  # as each process does on its own
    for metrics in both:
        value = metrics.registry.get_sample_value
        assert value(SHED, {"reason": "overload"}) == 3
        assert value("offramp_decode_duration_seconds_count") == 1
        assert value("offramp_decode_duration_seconds_bucket", {"le": "0.0025"}) == 0
        assert value("offramp_decode_duration_seconds_bucket", {"le": "0.005"}) == 1
        assert value("offramp_decode_duration_seconds_sum") == 0.004


def test_gauges_are_those_of_the_processes_that_serve() -> None:
    fds = [new_memory(), new_memory()]
    for fd, depth in zip(fds, (2, 3), strict=True):
        metrics = Metrics(Memory(fd), fds)
        metrics.watch(lambda depth=depth: depth, int, 10)  # type: ignore[misc]
        shared_head(fd)[Head.STATE] = State.READY
    assert metrics.registry.get_sample_value("offramp_processes") == 2
    assert metrics.registry.get_sample_value("offramp_queue_depth") == 5
    assert metrics.registry.get_sample_value("offramp_queue_capacity") == 20
    shared_head(fds[0])[Head.STATE] = State.ABSENT
    assert metrics.registry.get_sample_value("offramp_queue_depth") == 3
    assert metrics.registry.get_sample_value("offramp_processes") == 1, "the other may be starting"


def test_what_a_killed_process_counted_is_counted_on() -> None:
    fd = new_memory()
    for _ in range(2):
        command = [sys.executable, "-c", CODE, str(fd)]
        assert subprocess.run(command, cwd=ROOT, pass_fds=[fd], check=False).returncode == -9
    value = Metrics(Memory(fd)).registry.get_sample_value
    assert value(SHED, {"reason": "overload"}) == 6
    assert value("offramp_decode_duration_seconds_count") == 2
