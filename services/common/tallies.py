"""Counting what happens at every request, for Prometheus. One thread counts, that of the event loop, so nothing is locked.

The library's counters and histograms take a lock and check their arguments each time: 7 us for what a small answer counts, where
these take 1. Whoever scrapes reads from another thread, and sees each number as it was a moment ago.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Labels = tuple[str | int, ...]


class Tally(Collector):
    """A counter: `counts[labels] += n`, where `labels` are values in the order of the names."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self._family = (name, text, labels)
        self.counts: defaultdict[Labels, int] = defaultdict(int)
        if not labels:
            self.counts[()] = 0
        REGISTRY.register(self)

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Name and labels."""
        name, text, labels = self._family
        yield CounterMetricFamily(name, text, labels=labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The numbers."""
        for family in self.describe():
            for labels, count in list(self.counts.items()):
                family.add_metric([str(label) for label in labels], count)
            yield family


class Durations(Collector):
    """A histogram of seconds."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self._family = (name, text, labels)
        self._bounds = bounds
        self._names = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._counts: dict[Labels, list[int]] = {}
        self._sums: defaultdict[Labels, float] = defaultdict(float)
        REGISTRY.register(self)

    def observe(self, labels: Labels, seconds: float) -> None:
        """Something took so long."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * len(self._names)
        counts[bisect_left(self._bounds, seconds)] += 1
        self._sums[labels] += seconds

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Name and labels."""
        name, text, labels = self._family
        yield HistogramMetricFamily(name, text, labels=labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The numbers."""
        for family in self.describe():
            for labels, counts in list(self._counts.items()):
                buckets = list(zip(self._names, accumulate(counts), strict=True))
                family.add_metric([str(label) for label in labels], buckets, self._sums[labels])
            yield family
