"""Timeouts of a connection. Each object owns one timer and calls its owner back; it is independent of the protocol.

A timeout that is armed and disarmed with every request would cost 3 us each time; these are made so that a request that goes well
costs an assignment.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def _do_nothing() -> None:
    """Take the place of a hook whose owner has gone."""


class Timeout:
    """Calls `on_timeout` once, unless it is stopped before: header timeout and lingering close."""

    __slots__ = ("_loop", "_on_timeout", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_timeout: Callable[[], None]) -> None:
        self._loop = loop
        self._on_timeout = on_timeout
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Start it; one that runs goes on."""
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._expire)

    @property
    def running(self) -> bool:
        """Whether it was started, and has neither expired nor been stopped."""
        return self._timer is not None

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self._on_timeout()


class KeepAliveTimer:
    """Calls `on_timeout` when `seconds` have gone since the last `start` (RFC 9112, 9.8).

    uvicorn starts a timer after each response and cancels it at the next request: 3 us for each of them. Here a timer that runs
    goes on running, and checks when it expires how long ago the last start was. So `on_timeout` may find that the connection is
    not idle any more: then there is nothing to do, since the next `start` runs a new timer.
    """

    __slots__ = ("_idle_since", "_loop", "_on_timeout", "_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, on_timeout: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Note that the connection is idle from now on."""
        self._idle_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._check)

    def stop(self) -> None:
        """Stop the timer: the connection is gone, or another protocol's."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        left = self._idle_since + self._seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._on_timeout()


class SendTimeout:
    """Calls `on_timeout` when the write buffer does not shrink for the interval. A slow client that makes progress is kept: like
    nginx's `send_timeout`, this limits the time between two successful writes and not that of the whole response.

    `pending` returns the number of buffered bytes. At the end of each interval it must be smaller, or the peer has timed out.
    The kernel takes bytes from the buffer in large steps, so the progress of a slow client is only visible now and then. Without
    `pending` the timeout is a deadline: the owner must call `stop` within the interval, for example when its transport calls
    `resume_writing`.

    `on_timeout` is the hook: an HTTP connection aborts its transport, a WebSocket sends a close frame, a tunnel closes both its
    ends, a response under way cancels its task.
    """

    __slots__ = ("_before", "_loop", "_on_timeout", "_pending", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_timeout: Callable[[], None],
        pending: Callable[[], int] | None = None,
    ) -> None:
        self._loop = loop
        self._on_timeout = on_timeout
        self._pending = pending
        self._before = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Start it anew, with intervals of `seconds`. Nothing to do where nothing waits."""
        self.stop()
        if self._pending is not None and not (pending := self._pending()):
            return
        if self._pending is not None:
            self._before = pending
        self._timer = self._loop.call_later(seconds, self._check, seconds)

    def stop(self) -> None:
        """Stop it: the peer has taken what waited, or has gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def release(self) -> None:
        """Stop it for good, and let go of its owner, which it would keep alive in a cycle of references."""
        self.stop()
        self._on_timeout = _do_nothing
        self._pending = None

    def _check(self, seconds: float) -> None:
        self._timer = None
        if self._pending is not None and self._pending() < self._before:
            self.start(seconds)
        else:
            self._on_timeout()


def with_send_timeout(protocol: type[T], seconds: float) -> type[T]:
    """Return a subclass of a connection class, to be given to uvicorn, whose `send_timeout` is `seconds`."""
    members: dict[str, Any] = {"__slots__": (), "send_timeout": seconds}
    return type(protocol.__name__, (protocol,), members)
