"""Writes log lines to a file descriptor: lines of a few milliseconds in one write, in order, in a bounded buffer.

The reader of stderr may stop reading, for example a log collector that hangs. Then lines are buffered, and beyond the limit dropped
and counted: a service that blocks on its log would be worse.
"""

import asyncio
import contextlib
import os
import select
import stat
import threading
import time
from collections.abc import Callable

MAX_UNWRITTEN_LOG_BYTES = 1024 * 1024
"""Bytes that are buffered at most while the reader does not read."""
LOG_BUFFER_CHARACTERS = 64 * 1024
"""Characters of buffered lines that are written immediately, without waiting for the interval."""
LOG_FLUSH_INTERVAL_SECONDS = 0.008
"""How long a line is buffered at most. An iteration of a busy event loop logs one or two lines; a write costs more than a line."""
LOG_WRITE_RETRY_SECONDS = 0.1
"""Interval of further attempts while the pipe is full."""
FINAL_FLUSH_TIMEOUT_SECONDS = 1.0
"""How long the last lines of a process wait for a full pipe."""


class BufferedLogWriter:
    """Any thread may call `write`; `write_buffered` must be called in the thread of the event loop."""

    def __init__(self, fd: int, format_dropped: Callable[[int], str]) -> None:
        """`format_dropped` makes the line that reports the number of dropped lines."""
        self._fd = fd
        self._format_dropped = format_dropped
        self._lock = threading.Lock()
        self._buffer: list[str] = []
        self._buffered_characters = 0
        self._flush_scheduled = False
        self._unwritten = bytearray()
        self._dropped_lines = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        # A file accepts everything. A pipe that is writable accepts PIPE_BUF bytes without blocking, and perhaps no more.
        self._max_write_bytes = MAX_UNWRITTEN_LOG_BYTES if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF

    def write_buffered(self, line: str) -> None:
        """Write a line soon. A process that shuts down calls `flush`; a killed one loses its buffered lines."""
        self._buffer.append(line)
        self._buffered_characters += len(line)
        if self._buffered_characters > LOG_BUFFER_CHARACTERS:
            self.flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_later(LOG_FLUSH_INTERVAL_SECONDS, self._scheduled_flush)

    def write(self, line: str) -> None:
        """Write a line now, after the buffered ones."""
        self._buffer.append(line)
        self.flush()

    def flush(self, timeout_seconds: float = 0.0) -> None:
        """Write as much as the descriptor accepts, and wait up to `timeout_seconds` for the rest."""
        with self._lock:
            # Other threads may append meanwhile: only these lines are removed and written.
            count = len(self._buffer)
            lines, self._buffered_characters = self._buffer[:count], 0
            del self._buffer[:count]
            if self._dropped_lines and len(self._unwritten) < MAX_UNWRITTEN_LOG_BYTES // 2:
                lines.insert(0, self._format_dropped(self._dropped_lines))
                self._dropped_lines = 0
            if lines:
                data = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
                if len(self._unwritten) + len(data) > MAX_UNWRITTEN_LOG_BYTES:
                    self._dropped_lines += len(lines)
                else:
                    self._unwritten += data
            # OSError: the reader has closed the pipe, so the lines are discarded.
            with contextlib.suppress(OSError):
                until = time.monotonic() + timeout_seconds
                while self._unwritten and self._poll.poll(max(0.0, until - time.monotonic()) * 1000):
                    done = os.write(self._fd, self._unwritten[: self._max_write_bytes])
                    del self._unwritten[:done]
                return
            self._unwritten.clear()

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        self.flush()
        if self._unwritten and not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_later(LOG_WRITE_RETRY_SECONDS, self._scheduled_flush)
