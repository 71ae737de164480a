"""Reads a request's body from ASGI: enforces a minimum rate, and can be aborted from another task."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from services.common.asgi import ClientDisconnected, Receive
from services.common.errors import GridcastError, RequestTimeout


class UploadBody:
    """The bytes of one request.

    Fewer than `min_rate` bytes a second in `rate_window` seconds are a timeout. Only the time spent waiting for the client counts,
    not that of a slow store. `client` is the key of the client that sends them.
    """

    def __init__(self, receive: Receive, min_rate: int, rate_window: float, client: str = "") -> None:
        self.at_eof = False
        self.client = client
        self._started_at = time.monotonic()
        self._total_bytes = 0
        self._receive = receive
        self._min_rate = min_rate
        self._rate_window = rate_window
        self._seconds_waited = 0.0
        self._bytes_received = 0
        self._first_bytes = b""
        self._ends_with_first_bytes = False
        self._abort_error: GridcastError | None = None
        self._receive_timeout: asyncio.Timeout | None = None

    def abort(self, error: GridcastError) -> None:
        """Make `read` raise `error`, now if it is waiting."""
        self._abort_error = error
        if self._receive_timeout is not None:
            with suppress(
                RuntimeError
            ):  # the timeout has expired in this iteration of the loop: `read` wakes up anyway
                self._receive_timeout.reschedule(asyncio.get_running_loop().time())

    @property
    def average_rate(self) -> float:
        """Bytes per second since the request began; infinite where the client has sent everything."""
        return math.inf if self.at_eof else self._total_bytes / max(time.monotonic() - self._started_at, 0.001)

    async def is_empty(self) -> bool:
        """Whether the body has no bytes. Waits for the first ones, which `read` then returns. Raises as `read`."""
        if self.at_eof or self._first_bytes:
            return not self._first_bytes
        first_bytes = await self.read()
        if first_bytes is None:
            return True
        self._first_bytes, self._ends_with_first_bytes, self.at_eof = first_bytes, self.at_eof, False
        return False

    async def read(self, idle_timeout: float | None = None) -> bytes | None:
        """Return the next bytes, None at the end, b"" where none arrived for `idle_timeout` seconds.

        Raises RequestTimeout below the minimum rate, ClientDisconnected, and the error of `abort`.
        """
        if self._first_bytes:
            first_bytes, self._first_bytes, self.at_eof = self._first_bytes, b"", self._ends_with_first_bytes
            return first_bytes
        return None if self.at_eof else await self._receive_bytes(idle_timeout)

    async def _receive_bytes(self, idle_timeout: float | None) -> bytes | None:
        while True:
            if self._abort_error is not None:
                raise self._abort_error
            remaining = self._rate_window - self._seconds_waited
            started_at = time.monotonic()
            try:
                async with asyncio.timeout(
                    remaining if idle_timeout is None else min(remaining, idle_timeout)
                ) as self._receive_timeout:
                    message = await self._receive()
            except TimeoutError:
                message = None
            finally:
                self._receive_timeout = None
            self._seconds_waited += time.monotonic() - started_at
            if message is None:
                self._check_rate()
                if idle_timeout is not None and self._abort_error is None:
                    return b""
                continue
            if message["type"] == "http.disconnect":
                self.at_eof = True
                raise ClientDisconnected
            data: bytes = message.get("body", b"")
            self._bytes_received += len(data)
            self._total_bytes += len(data)
            self.at_eof = not message.get("more_body", False)
            if data:
                self._check_rate()
                return data
            if self.at_eof:
                return None

    def _check_rate(self) -> None:
        """Check the rate at the end of a window and begin the next one."""
        if self._seconds_waited >= self._rate_window:
            if self._bytes_received < self._min_rate * self._rate_window:
                raise RequestTimeout(f"fewer than {self._min_rate} bytes a second for {self._rate_window:g} seconds")
            self._seconds_waited, self._bytes_received = 0.0, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self.read()) is not None:
            yield data
