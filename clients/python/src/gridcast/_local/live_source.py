"""The source of a live stream: whatever an encoder has written by now, so that nothing waits for a full block."""

import threading
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

from gridcast.errors import InvalidRequest

ENCODER_READ_BYTES = 64 * 1024
MAX_BUFFERED_BYTES = 32 * 1024 * 1024
"""Bytes that are kept while the server is away. Beyond it the encoder has to wait."""
GATHER_SECONDS = 0.2
"""How long the first byte waits for others: fewer and larger requests."""


class LiveSource:
    """A binary file object or pipe, read by a thread of its own."""

    def __init__(self, file: BinaryIO) -> None:
        read: Callable[[int], bytes] | None = getattr(file, "read1", None) or getattr(file, "read", None)
        if read is None:
            raise InvalidRequest("the source of a live stream is a binary file object")
        self._read = read
        self._blocks: deque[bytes] = deque()
        self._buffered = 0
        self._has_ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="gridcast-live", daemon=True).start()

    def read(self, size: int) -> bytes:
        """Return what has come, at most `size` bytes; b"" at the end. Waits for the first byte."""
        with self._changed:
            self._changed.wait_for(lambda: self._blocks or self._has_ended)
            if self._buffered < size and not self._has_ended:
                self._changed.wait_for(lambda: self._buffered >= size or self._has_ended, GATHER_SECONDS)
            if self._error is not None and not self._blocks:
                raise self._error
            data = b"".join(self._blocks)
            self._blocks.clear()
            if len(data) > size:
                self._blocks.append(data[size:])
            self._buffered = max(0, len(data) - size)
            self._changed.notify_all()
            return data[:size]

    def stop(self) -> None:
        """Take nothing more; what has come is still read."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while block := self._read(ENCODER_READ_BYTES):
                if not isinstance(block, bytes | bytearray):
                    raise InvalidRequest("the source does not give bytes: open it in binary mode, and blocking")  # noqa: TRY301
                with self._changed:
                    self._changed.wait_for(lambda: self._buffered < MAX_BUFFERED_BYTES or self._has_ended)
                    if self._has_ended:
                        return
                    self._blocks.append(bytes(block))
                    self._buffered += len(block)
                    self._changed.notify_all()
        except (OSError, ValueError, InvalidRequest) as error:
            self._error = error
        finally:
            self.stop()
