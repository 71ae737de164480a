"""Prometheus counters and histograms for the hot path. Only the thread of the event loop counts, so there are no locks.

The library's own ones take a lock and check their arguments each time: 7 us for the counts of a small response, where these take 1.
A scrape reads from another thread and may see each number a moment late.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

LabelValues = tuple[str | int, ...]


class FastCounter(Collector):
    """A counter: `counts[labels] += n`, where `labels` are values in the order of the names."""

    def __init__(self, name: str, documentation: str, label_names: Sequence[str] = ()) -> None:
        self._family_args = (name, documentation, label_names)
        self.counts: defaultdict[LabelValues, int] = defaultdict(int)
        if not label_names:
            self.counts[()] = 0
        REGISTRY.register(self)

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Name and labels."""
        name, text, labels = self._family_args
        yield CounterMetricFamily(name, text, labels=labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The numbers."""
        for family in self.describe():
            for labels, count in list(self.counts.items()):
                family.add_metric([str(label) for label in labels], count)
            yield family


class FastHistogram(Collector):
    """A histogram of seconds."""

    def __init__(self, name: str, documentation: str, label_names: Sequence[str], buckets: Sequence[float]) -> None:
        self._family_args = (name, documentation, label_names)
        self._buckets = buckets
        self._bucket_labels = [*(str(float(bound)) for bound in buckets), "+Inf"]
        self._bucket_counts: dict[LabelValues, list[int]] = {}
        self._sums: defaultdict[LabelValues, float] = defaultdict(float)
        REGISTRY.register(self)

    def observe(self, label_values: LabelValues, seconds: float) -> None:
        """Count one duration."""
        counts = self._bucket_counts.get(label_values)
        if counts is None:
            counts = self._bucket_counts[label_values] = [0] * len(self._bucket_labels)
        counts[bisect_left(self._buckets, seconds)] += 1
        self._sums[label_values] += seconds

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Name and labels."""
        name, text, labels = self._family_args
        yield HistogramMetricFamily(name, text, labels=labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The numbers."""
        for family in self.describe():
            for labels, counts in list(self._bucket_counts.items()):
                buckets = list(zip(self._bucket_labels, accumulate(counts), strict=True))
                family.add_metric([str(label) for label in labels], buckets, self._sums[labels])
            yield family
