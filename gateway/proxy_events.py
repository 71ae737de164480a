"""Writes the gateway's decisions to the log and to the metrics."""

import logging

from gateway.upstream.upstream_pool import Upstream, UpstreamPool
from services.common.telemetry import metrics

_log = logging.getLogger("gridcast.gateway")


def upstream_ejected(pool: UpstreamPool, upstream: Upstream, reason: object) -> None:
    """An upstream was ejected."""
    metrics.UPSTREAM_EJECTIONS.labels(pool.name).inc()
    fields = {
        "upstream": pool.name,
        "upstream_addr": upstream.origin,
        "reason": str(reason),
        "consecutive_failures": upstream.consecutive_failures,
    }
    _log.warning("upstream ejected", extra={"fields": fields})


def upstream_recovered(pool: UpstreamPool, upstream: Upstream) -> None:
    """A health check has ended an ejection."""
    _log.info("upstream recovered", extra={"fields": {"upstream": pool.name, "upstream_addr": upstream.origin}})


def upstream_retried(pool: UpstreamPool) -> None:
    """A safe request or a handshake may be retried: its connection closed before a response. Counted even if no upstream is left.

    A failed connect is not counted: nothing was sent, so the next upstream gets the request for the first time.
    """
    metrics.UPSTREAM_RETRIES.labels(pool.name).inc()


def upstream_error(service: str, status: int) -> None:
    """The gateway responded with this status, 502, 503 or 504, in place of an upstream."""
    metrics.UPSTREAM_ERRORS.labels(service, status).inc()


def request_rejected(reason: str) -> None:
    """A request or a handshake was rejected before it went to a service."""
    metrics.REQUESTS_REJECTED.labels(reason).inc()


def upstreams_changed(pool: UpstreamPool) -> None:
    """The upstreams of a service were resolved for the first time, or have changed."""
    metrics.UPSTREAM_HOSTS.labels(pool.name).set(len(pool.upstreams))
    fields = {"upstream": pool.name, "upstream_addrs": [upstream.origin for upstream in pool.upstreams]}
    _log.info("upstream hosts changed", extra={"fields": fields})
