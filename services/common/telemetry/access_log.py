"""Writes the access log: one JSON line for each request, in the format of `json_logging.JsonFormatter`.

The lines bypass `logging`, which costs more than the rest of the work for a small response: 21 us per line against 4.
"""

import time
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from services.common.http.secret_paths import redact_path
from services.common.telemetry.json_logging import encode_json
from services.common.telemetry.log_writer import BufferedLogWriter

ACCESS_LOGGER = "gridcast.access"
"""The logger name of the access log, also of the lines that pass through `logging`."""


class AccessLog:
    """Writes one line for each request to the writer that `logging` uses too, so that the order is kept."""

    def __init__(self, service: str, writer: BufferedLogWriter) -> None:
        self._writer = writer
        self._constant_members = (
            f'"level": "info", "service": {quote(service)}, "logger": "{ACCESS_LOGGER}", "message": "request"'
        )
        self._timestamp_second = 0
        self._timestamp = ""

    def write(
        self,
        request_id: str,
        method: str,
        path: str,
        status: int,
        bytes_sent: int,
        bytes_received: int,
        duration_seconds: float,
        extra_fields: Mapping[str, Any] | None,
    ) -> None:
        """Write one line. `request_id` must need no JSON escapes; `extra_fields` are added to the line."""
        now = time.time()
        second = int(now)
        if second != self._timestamp_second:
            self._timestamp_second = second
            self._timestamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        rest = (
            "".join([f', "{name}": {_encode_value(value)}' for name, value in extra_fields.items()])
            if extra_fields
            else ""
        )
        self._writer.write_buffered(
            f'{{"time": "{self._timestamp}.{int((now - second) * 1000):03}+00:00", {self._constant_members}, '
            f'"request_id": "{request_id}", "method": {quote(method)}, "path": {quote(redact_path(path))}, "status": {status}, '
            f'"bytes_sent": {bytes_sent}, "bytes_received": {bytes_received}, "duration": {duration_seconds:.6f}{rest}}}'
        )


def _encode_value(value: Any) -> str:
    """Encode the usual types of fields without an encoder: 1 us instead of 4 for two fields."""
    if type(value) is str:
        return quote(value)
    return repr(value) if type(value) is int or type(value) is float else encode_json(value)
