"""What a process records of its HTTP requests. The composition root creates it and hands it to the application."""

import logging
from collections.abc import Mapping
from typing import Any

from services.common.http.hosts import HostPolicy
from services.common.settings import Settings
from services.common.telemetry import metrics
from services.common.telemetry.access_log import ACCESS_LOGGER, AccessLog
from services.common.telemetry.json_logging import configure_logging

UNLOGGED_PATHS = frozenset({"/livez", "/readyz"})
"""Requested every few seconds by probes: not worth a line in the log."""


class RequestTelemetry:
    """Counts requests, and writes the access log where there is one.

    `in_flight`: the requests that the middleware is handling.
    """

    __slots__ = ("_access_log", "in_flight")

    def __init__(self, access_log: AccessLog | None = None) -> None:
        """`access_log`: None disables it."""
        self._access_log = access_log
        self.in_flight = 0

    def record(
        self,
        request_id: str,
        method: str,
        path: str,
        route: str,
        status: int,
        bytes_sent: int,
        bytes_received: int,
        duration_seconds: float,
        extra_fields: Mapping[str, Any] | None,
    ) -> None:
        """Count a complete request and write its line. `route`: the template, as the metrics' label."""
        metrics.record_http_request(method, route, status, duration_seconds, bytes_received, bytes_sent)
        if self._access_log is not None and path not in UNLOGGED_PATHS:
            self._access_log.write(
                request_id, method, path, status, bytes_sent, bytes_received, duration_seconds, extra_fields
            )


def start_telemetry(service: str, settings: Settings) -> RequestTelemetry:
    """Configure the logs and metrics of this process. Raises OSError if the metrics port is taken."""
    writer = configure_logging(service, settings.log_level)
    if settings.metrics_port:
        hosts = HostPolicy(settings.allowed_hosts)
        metrics.start_metrics_server(settings.host, settings.metrics_port, hosts.allows)
    enabled = logging.getLogger(ACCESS_LOGGER).isEnabledFor(logging.INFO)
    telemetry = RequestTelemetry(AccessLog(service, writer) if enabled else None)
    metrics.HTTP_REQUESTS_IN_FLIGHT.set_function(lambda: telemetry.in_flight)
    return telemetry
