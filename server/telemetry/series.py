"""Counters, gauges and histograms in memory that processes share, and their sum over all of them.

They take the place of prometheus-client's own: a request is counted in a dozen of them, and an
increment here is one addition in memory.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import nan
from operator import add
from typing import Generic, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from server.telemetry.memory import Memory

Totals = Mapping[tuple[str, ...], Sequence[float]]
"""The numbers of every series, by the values of its labels."""


class Count:
    """A number that only rises."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: "memoryview[float]") -> None:
        self._numbers = numbers

    def inc(self, amount: float = 1.0) -> None:
        self._numbers[0] += amount


class Level:
    """A number that is set. It is not exported while it is NaN."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: "memoryview[float]") -> None:
        self._numbers = numbers

    def set(self, value: float) -> None:
        self._numbers[0] = value


class Spread:
    """The sum of all values, then how many were at most each bound, and how many were above all."""

    __slots__ = ("_bounds", "_numbers")

    def __init__(self, numbers: "memoryview[float]", bounds: Sequence[float]) -> None:
        self._numbers, self._bounds = numbers, bounds

    def observe(self, value: float) -> None:
        numbers = self._numbers
        numbers[0] += value
        numbers[bisect_left(self._bounds, value) + 1] += 1.0


S = TypeVar("S", Count, Level, Spread)


class Family(ABC, Generic[S]):
    """Every series of one name. `size` numbers each are combined over processes by `combine`."""

    size = 1
    combine: Callable[[float, float], float] = staticmethod(add)

    def __init__(self, memory: Memory, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self._text, self._labels = name, text, labels
        self._memory = memory
        self._series: dict[tuple[object, ...], S] = {}

    def labels(self, *values: object) -> S:
        """The series with these values, which starts at 0. It is kept: the next look is short."""
        series = self._series.get(values)
        if series is None:
            key = (self.name, *map(str, values))
            series = self._series[values] = self.series(self._memory.take(key, self.size))
        return series

    @abstractmethod
    def series(self, numbers: "memoryview[float]") -> S:
        """A series that counts in these numbers."""

    @abstractmethod
    def metric(self, totals: Totals) -> Metric:
        """The totals of every series, as the registry exports them."""


class Counter(Family[Count]):
    def series(self, numbers: "memoryview[float]") -> Count:
        return Count(numbers)

    def metric(self, totals: Totals) -> Metric:
        metric = CounterMetricFamily(self.name, self._text, labels=self._labels)
        for values, numbers in totals.items():
            metric.add_metric(values, numbers[0])
        return metric


class Gauge(Family[Level]):
    """Its series are summed over processes, or of a `Common` gauge the largest is taken."""

    def __init__(self, memory: Memory, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        super().__init__(memory, name, text, labels)
        for numbers in memory.matching((name,)):  # of a process that ended
            numbers[0] = nan

    def series(self, numbers: "memoryview[float]") -> Level:
        numbers[0] = 0.0
        return Level(numbers)

    def remove(self, *values: object) -> None:
        """Exports the series no longer."""
        self.labels(*values).set(nan)

    def metric(self, totals: Totals) -> Metric:
        metric = GaugeMetricFamily(self.name, self._text, labels=self._labels)
        for values, numbers in totals.items():
            metric.add_metric(values, numbers[0])
        return metric


class Common(Gauge):
    """A gauge that is the same in every process, or of which the largest counts."""

    combine = staticmethod(max)


class Histogram(Family[Spread]):
    def __init__(
        self,
        memory: Memory,
        name: str,
        text: str,
        labels: tuple[str, ...],
        bounds: tuple[float, ...],
    ) -> None:
        super().__init__(memory, name, text, labels)
        self.size, self._bounds = len(bounds) + 2, bounds
        self._names = [*map(str, map(float, bounds)), "+Inf"]

    def series(self, numbers: "memoryview[float]") -> Spread:
        return Spread(numbers, self._bounds)

    def metric(self, totals: Totals) -> Metric:
        metric = HistogramMetricFamily(self.name, self._text, labels=self._labels)
        for values, (total, *counts) in totals.items():
            buckets = list(zip(self._names, accumulate(counts), strict=True))
            metric.add_metric(values, buckets, total)
        return metric
