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

LIMIT = 1024 * 1024
"""Bytes that may wait for a reader."""
HELD = 64 * 1024
"""Bytes that are written at once when they are there."""
HELD_SECONDS = 0.008
"""The longest that a line is held. A turn of a busy event loop has one or two lines, and a write costs more than a line."""
AGAIN_SECONDS = 0.1
"""Until the next look at a reader who had no room."""
LAST_SECONDS = 1.0
"""How long the last lines of a process wait for room."""


class Lines:
    """Any thread may call `say`; `hold` is for the thread of the event loop."""

    def __init__(self, descriptor: int, lost: Callable[[int], str]) -> None:
        """`lost` makes the line that says how many are missing."""
        self._descriptor = descriptor
        self._lost_line = lost
        self._lock = threading.Lock()
        self._held: list[str] = []
        self._size = 0
        self._planned = False
        self._waiting = bytearray()
        self._lost = 0
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        # A file takes everything at once. A pipe that has room takes PIPE_BUF bytes without blocking, and perhaps no more.
        self._piece = LIMIT if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF

    def hold(self, line: str) -> None:
        """Write a line soon. A process that ends in order calls `flush`; one that is killed loses what is held."""
        self._held.append(line)
        self._size += len(line)
        if self._size > HELD:
            self.flush()
        elif not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_later(HELD_SECONDS, self._turn)

    def say(self, line: str) -> None:
        """Write a line now, behind those that are held."""
        self._held.append(line)
        self.flush()

    def flush(self, seconds: float = 0.0) -> None:
        """Write what there is room for, and wait so long for more of it."""
        with self._lock:
            # Others may append meanwhile: only what is taken out is written.
            count = len(self._held)
            lines, self._size = self._held[:count], 0
            del self._held[:count]
            if self._lost and len(self._waiting) < LIMIT // 2:
                lines.insert(0, self._lost_line(self._lost))
                self._lost = 0
            if lines:
                data = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
                if len(self._waiting) + len(data) > LIMIT:
                    self._lost += len(lines)
                else:
                    self._waiting += data
            # A reader who is gone for good: what was for him is nobody's.
            with contextlib.suppress(OSError):
                until = time.monotonic() + seconds
                while self._waiting and self._poll.poll(max(0.0, until - time.monotonic()) * 1000):
                    done = os.write(self._descriptor, self._waiting[: self._piece])
                    del self._waiting[:done]
                return
            self._waiting.clear()

    def _turn(self) -> None:
        self._planned = False
        self.flush()
        if self._waiting and not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._turn)
