"""A request's body as it arrives, with a least rate, and a way to cut it from elsewhere. It knows ASGI and nothing of files."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from services.common.errors import GridcastError, TooSlow
from services.common.web import Disconnected, Receive


class Body:
    """The bytes of one request. Only the time spent waiting for the client counts for the rate, never that of a slow store."""

    def __init__(self, receive: Receive, least_rate: int, window: float) -> None:
        self.ended = False
        self._receive = receive
        self._rate = least_rate
        self._window = window
        self._waited = 0.0
        self._arrived = 0
        self._cut: GridcastError | None = None
        self._waiting: asyncio.Timeout | None = None

    def cut(self, error: GridcastError) -> None:
        """Make `read` raise `error`, now if it is waiting."""
        self._cut = error
        if self._waiting is not None:
            with suppress(RuntimeError):  # its time has run out in this very turn: `read` wakes up anyway
                self._waiting.reschedule(asyncio.get_running_loop().time())

    async def read(self, idle: float | None = None) -> bytes | None:
        """The next bytes, None at the end; b"" where none came for `idle` seconds.

        Raises TooSlow below the least rate, Disconnected where the client went away.
        """
        if self.ended:
            return None
        while True:
            if self._cut is not None:
                raise self._cut
            left = self._window - self._waited
            began = time.monotonic()
            try:
                async with asyncio.timeout(left if idle is None else min(left, idle)) as self._waiting:
                    message = await self._receive()
            except TimeoutError:
                message = None
            finally:
                self._waiting = None
            self._waited += time.monotonic() - began
            if message is None:
                self._judge()
                if idle is not None and self._cut is None:
                    return b""
                continue
            if message["type"] == "http.disconnect":
                self.ended = True
                raise Disconnected
            data: bytes = message.get("body", b"")
            self._arrived += len(data)
            self.ended = not message.get("more_body", False)
            if data:
                self._judge()
                return data
            if self.ended:
                return None

    def _judge(self) -> None:
        """At the end of a window: were there enough bytes in it?"""
        if self._waited >= self._window:
            if self._arrived < self._rate * self._window:
                raise TooSlow(f"fewer than {self._rate} bytes a second for {self._window:g} seconds")
            self._waited, self._arrived = 0.0, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self.read()) is not None:
            yield data
