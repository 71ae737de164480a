"""What operators see of the gateway's decisions, in the log and in the metrics. It decides nothing."""

import logging

from gateway.upstreams import Replica, Upstream
from services.common import metrics

_log = logging.getLogger("gridcast.gateway")


def ejected(upstream: Upstream, replica: Replica, why: object) -> None:
    """A replica is left alone for a while."""
    metrics.EJECTIONS.labels(upstream.name).inc()
    fields = {"service": upstream.name, "replica": replica.origin, "why": str(why), "failures": replica.failures}
    _log.warning("ejected", extra={"fields": fields})


def returned(upstream: Upstream, replica: Replica) -> None:
    """A replica that was left alone answers again."""
    _log.info("returned", extra={"fields": {"service": upstream.name, "replica": replica.origin}})


def retried(upstream: Upstream) -> None:
    """A safe request or a handshake was broken off before an answer, so it may be sent again. Where no replica is left it is not.

    A replica that could not be reached was sent nothing: the next one is asked, and that is no retry.
    """
    metrics.RETRIES.labels(upstream.name).inc()


def unanswered(service: str, status: int) -> None:
    """No replica answered; the client gets this status."""
    metrics.UPSTREAM_ERRORS.labels(service, status).inc()


def refused(why: str) -> None:
    """Somebody was turned away at the door."""
    metrics.REFUSED.labels(why).inc()


def replicas(upstream: Upstream) -> None:
    """A service's replicas are known, or have changed."""
    metrics.REPLICAS.labels(upstream.name).set(len(upstream.replicas))
    fields = {"service": upstream.name, "replicas": [replica.origin for replica in upstream.replicas]}
    _log.info("replicas", extra={"fields": fields})
