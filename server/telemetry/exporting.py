"""The metrics of a scrape: sums over the processes of a server, the same from each of them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from server.telemetry.memory import Head, State, read, read_head
from server.telemetry.series import Family, Gauge

START, CPU = "process_start_time_seconds", "process_cpu_seconds"
CHILDREN_TICKS = slice(13, 15)
"""Fields of /proc/PID/stat, after the name: the processor time of children that have ended."""

Totals = dict[tuple[str, ...], list[float]]


class Sums(Collector):
    """Every family, summed over the memories of all processes, also of those that have ended.

    The gauges of a process that does not serve are left out. `refresh` is called before each sum.
    """

    def __init__(
        self, fds: Sequence[int], families: Mapping[str, Family[Any]], refresh: Callable[[], None]
    ) -> None:
        self._fds, self._families, self._refresh = fds, families, refresh

    def describe(self) -> list[Metric]:
        return [family.metric({}) for family in self._families.values()]

    def collect(self) -> Iterator[Metric]:
        self._refresh()
        totals: dict[str, Totals] = {name: {} for name in self._families}
        for fd in self._fds:
            is_serving = serves(read_head(fd), len(self._fds))
            for (name, *values), numbers in read(fd).items():
                family = self._families.get(name)
                if family is None or isnan(numbers[0]):
                    continue
                if is_serving or not isinstance(family, Gauge):
                    add(totals[name], tuple(values), numbers, family.combine)
        for name, family in self._families.items():
            yield family.metric(totals[name])


def add(
    totals: Totals,
    values: tuple[str, ...],
    numbers: Sequence[float],
    combine: Callable[[float, float], float],
) -> None:
    """Combines one process's numbers of a series with those of the others."""
    so_far = totals.get(values)
    totals[values] = list(numbers if so_far is None else map(combine, so_far, numbers))


class Members(Collector):
    """How many processes serve, and the memory, files and time that all use together.

    The start time is the latest one. Processor time includes the parent's, and that of members that
    have ended.
    """

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = fds

    def collect(self) -> Iterator[Metric]:
        heads = [read_head(fd) for fd in self._fds]
        parent = int(heads[0][Head.PARENT])
        pids = [int(head[Head.PID]) for head in heads if head[Head.PID] > 0]
        found: dict[str, Metric] = {}
        for pid in (*pids, parent) if parent else pids:
            for metric in of_process(pid):
                known = found.setdefault(metric.name, metric)
                if known is not metric:
                    merge(known, metric.samples[0].value)
        if parent and CPU in found:
            merge(found[CPU], ended_children_s(parent))
        yield from found.values()
        num_serving = sum(serves(head, len(heads)) for head in heads)
        yield GaugeMetricFamily("offramp_processes", "Processes that serve", num_serving)
        restarts = sum(head[Head.RESTARTS] for head in heads)
        yield CounterMetricFamily(
            "offramp_process_restarts", "Processes that were replaced", restarts
        )


def serves(head: Sequence[float], num_processes: int) -> bool:
    """Whether a process answers requests; one that starts, or has ended, does not."""
    return num_processes == 1 or head[Head.STATE] != State.ABSENT


def of_process(pid: int) -> list[Metric]:
    """Memory, files, start and processor time of one process; none where it has ended."""
    return list(ProcessCollector(pid=lambda: pid, registry=None).collect())


def merge(metric: Metric, value: float) -> None:
    (sample,) = metric.samples
    both = max(sample.value, value) if metric.name == START else sample.value + value
    metric.samples = [sample._replace(value=both)]


def ended_children_s(pid: int) -> float:
    """Processor seconds of a process's children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[CHILDREN_TICKS])) / os.sysconf("SC_CLK_TCK")
