"""What operators see of the gateway's decisions, in the log and in the metrics. It decides nothing."""

import logging

from gateway.upstream.upstream_pool import Upstream, UpstreamPool
from services.common.telemetry import metrics

_log = logging.getLogger("gridcast.gateway")


def upstream_ejected(pool: UpstreamPool, upstream: Upstream, reason: object) -> None:
    """A replica is left alone for a while."""
    metrics.UPSTREAM_EJECTIONS.labels(pool.name).inc()
    fields = {
        "upstream": pool.name,
        "upstream_addr": upstream.origin,
        "reason": str(reason),
        "consecutive_failures": upstream.consecutive_failures,
    }
    _log.warning("upstream ejected", extra={"fields": fields})


def upstream_recovered(pool: UpstreamPool, upstream: Upstream) -> None:
    """A replica that was left alone answers again."""
    _log.info("upstream recovered", extra={"fields": {"upstream": pool.name, "upstream_addr": upstream.origin}})


def upstream_retried(pool: UpstreamPool) -> None:
    """A safe request or a handshake was broken off before an answer, so it may be sent again. Where no replica is left it is not.

    A replica that could not be reached was sent nothing: the next one is asked, and that is no retry.
    """
    metrics.UPSTREAM_RETRIES.labels(pool.name).inc()


def upstream_error(service: str, status: int) -> None:
    """No replica answered; the client gets this status."""
    metrics.UPSTREAM_ERRORS.labels(service, status).inc()


def request_rejected(reason: str) -> None:
    """Somebody was turned away at the door."""
    metrics.REQUESTS_REJECTED.labels(reason).inc()


def upstreams_changed(pool: UpstreamPool) -> None:
    """A service's replicas are known, or have changed."""
    metrics.UPSTREAM_HOSTS.labels(pool.name).set(len(pool.upstreams))
    fields = {"upstream": pool.name, "upstream_addrs": [replica.origin for replica in pool.upstreams]}
    _log.info("upstream hosts changed", extra={"fields": fields})
