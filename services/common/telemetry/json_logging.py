"""Formats the records of `logging` as one JSON object per line on stderr, with the id of the request."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from services.common.telemetry.log_writer import FINAL_FLUSH_TIMEOUT_SECONDS, BufferedLogWriter
from services.common.telemetry.request_id import request_id_var

encode_json = json.JSONEncoder(default=str).encode
"""One encoder for all lines: json.dumps would build one for each."""


class JsonFormatter(logging.Formatter):
    """Formats records as JSON; `extra={"fields": {...}}` adds fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return one line: JSON escapes line ends, so a message cannot forge another line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self.service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identifier := request_id_var.get():
            entry["request_id"] = identifier
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return encode_json(entry)


class BufferedLogHandler(logging.Handler):
    """Writes the records of `logging` immediately."""

    def __init__(self, writer: BufferedLogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Format and write; a record that cannot be formatted is reported by `logging`."""
        try:
            self._writer.write(self.format(record))
        except Exception:  # noqa: BLE001  # as in every handler of the standard library
            self.handleError(record)

    def flush(self) -> None:
        """Write the buffered lines; `logging.shutdown` calls this at the end of the process."""
        self._writer.flush(FINAL_FLUSH_TIMEOUT_SECONDS)


def configure_logging(service: str, level: str) -> BufferedLogWriter:
    """Send all logs of this process to stderr, as JSON, from `level` on. Returns the writer of the lines."""
    # Our lines do not contain thread, process or source line; Python's logging HOWTO ("Optimization") has these switches.
    # 3.7 instead of 5.1 us for a record before it is formatted, and the process id is a system call.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001  # documented there
    form = JsonFormatter(service)

    def lost(count: int) -> str:
        fields = {"fields": {"dropped": count}}
        return form.format(
            logging.makeLogRecord({"name": __name__, "levelname": "WARNING", "msg": "log lines dropped", **fields})
        )

    lines = BufferedLogWriter(sys.stderr.fileno(), lost)
    handler = BufferedLogHandler(lines)
    handler.setFormatter(form)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("pymongo", "redis", "httpx", "httpcore", "asyncio"):
        logging.getLogger(noisy).setLevel("WARNING")
    return lines
