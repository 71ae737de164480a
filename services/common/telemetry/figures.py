"""The live figures of this process that `GET /status` shows: a few of its metrics, each as one number. Counts nothing."""

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client import PROCESS_COLLECTOR
from prometheus_client.metrics_core import Metric

from services.common.telemetry import metrics


class _Collector(Protocol):
    def collect(self) -> Iterable[Metric]:
        """Return the families of the metric."""


def _total(collector: _Collector, keep: Callable[[dict[str, str]], bool] = lambda _labels: True) -> float:
    """Return the sum of a counter or gauge over the labels to keep."""
    samples = (sample for family in collector.collect() for sample in family.samples)
    return sum(sample.value for sample in samples if not sample.name.endswith("_created") and keep(sample.labels))


def _is_server_error(labels: dict[str, str]) -> bool:
    """A probe that says "not ready" is none."""
    return labels["status"].startswith("5") and labels["route"] != "/readyz"


def read_figures() -> dict[str, float]:
    """Return the figures by name: counters since the process was started, and gauges. Those that are 0 are left out.

    Bytes end with `_bytes`, seconds with `_seconds`.
    """
    process = {sample.name: sample.value for family in PROCESS_COLLECTOR.collect() for sample in family.samples}
    figures = {
        "requests": _total(metrics.HTTP_REQUESTS),
        "in_flight": _total(metrics.HTTP_REQUESTS_IN_FLIGHT),
        "server_errors": _total(metrics.HTTP_REQUESTS, _is_server_error),
        "received_bytes": _total(metrics.HTTP_REQUEST_BODY_BYTES),
        "sent_bytes": _total(metrics.HTTP_RESPONSE_BODY_BYTES),
        "stored_bytes": _total(metrics.STORED_BYTES),
        "sockets": _total(metrics.WEBSOCKET_CONNECTIONS),
        "tunnels": _total(metrics.WEBSOCKET_TUNNELS),
        "frames_sent": _total(metrics.WEBSOCKET_FRAMES_SENT),
        "pushes": _total(metrics.PUSHES),
        "cache_hits": _total(metrics.CACHE_LOOKUPS, lambda labels: labels["outcome"] == "hit"),
        "cache_misses": _total(metrics.CACHE_LOOKUPS, lambda labels: labels["outcome"] != "hit"),
        "cache_bytes": _total(metrics.BLOCK_CACHE_BYTES),
        "retries": _total(metrics.UPSTREAM_RETRIES),
        "ejections": _total(metrics.UPSTREAM_EJECTIONS),
        "memory_bytes": process.get("process_resident_memory_bytes", 0.0),
        "cpu_seconds": round(process.get("process_cpu_seconds_total", 0.0), 2),
    }
    return {name: value for name, value in figures.items() if value}
