"""Lines on their way to a descriptor: those of some milliseconds in one write, in order, and not too many waiting.

Whoever reads stderr may stop reading, as a log collector that hangs. Then lines wait, and when too many do, those that come later
are counted and lost: a service that stands still for its log would be worse. It knows no format.
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
"""Bytes that may wait for a reader."""
LOG_BUFFER_CHARACTERS = 64 * 1024
"""Bytes that are written at once when they are there."""
LOG_FLUSH_INTERVAL_SECONDS = 0.008
"""The longest that a line is held. A turn of a busy event loop has one or two lines, and a write costs more than a line."""
LOG_WRITE_RETRY_SECONDS = 0.1
"""Until the next look at a reader who had no room."""
FINAL_FLUSH_TIMEOUT_SECONDS = 1.0
"""How long the last lines of a process wait for room."""


class BufferedLogWriter:
    """Any thread may call `say`; `hold` is for the thread of the event loop."""

    def __init__(self, fd: int, format_dropped: Callable[[int], str]) -> None:
        """`lost` makes the line that says how many are missing."""
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
        # A file takes everything at once. A pipe that has room takes PIPE_BUF bytes without blocking, and perhaps no more.
        self._max_write_bytes = MAX_UNWRITTEN_LOG_BYTES if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF

    def write_buffered(self, line: str) -> None:
        """Write a line soon. A process that ends in order calls `flush`; one that is killed loses what is held."""
        self._buffer.append(line)
        self._buffered_characters += len(line)
        if self._buffered_characters > LOG_BUFFER_CHARACTERS:
            self.flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_later(LOG_FLUSH_INTERVAL_SECONDS, self._scheduled_flush)

    def write(self, line: str) -> None:
        """Write a line now, behind those that are held."""
        self._buffer.append(line)
        self.flush()

    def flush(self, timeout_seconds: float = 0.0) -> None:
        """Write what there is room for, and wait so long for more of it."""
        with self._lock:
            # Others may append meanwhile: only what is taken out is written.
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
            # A reader who is gone for good: what was for him is nobody's.
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
