"""One connection to a replica: a request goes out, its answer comes in. It knows no replica, no pool and no retry.

Both ways are bounded: reading pauses while HIGH bytes wait for the client, and `drain` waits while the service takes no more.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from gateway.upstream.response_parser import RemoteProtocolError, ResponseParser

READ_BUFFER_HIGH_WATER = 256 * 1024
"""Bytes of an answer that wait here for the client to take them; then the service is not read until all but LOW are taken."""
READ_BUFFER_LOW_WATER = 64 * 1024


class ServerDisconnected(Exception):
    """The connection broke: before an answer, or in the middle of it."""


class UpstreamConnection(asyncio.Protocol):
    """A connection with at most one request on it at a time. Whoever awaits an answer gets Gone or Unreadable where none comes."""

    __slots__ = (
        "_active",
        "_continue_waiter",
        "_drain_waiter",
        "_failure",
        "_loop",
        "_on_closed",
        "_on_idle",
        "_reading_paused",
        "_response_waiter",
        "_transport",
        "_write_paused",
        "body_task",
        "closed",
        "request_sent",
        "response",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[["UpstreamConnection"], None],
        on_closed: Callable[["UpstreamConnection"], None],
    ) -> None:
        """`free` is told when it may carry another request, `lost` when it never will."""
        self._loop = loop
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport
        self.response = ResponseParser()
        """Its status and its fields may be looked at after `head`."""
        self._active = self._reading_paused = self._write_paused = False
        self._failure: Exception | None = None
        self._response_waiter: asyncio.Future[None] | None = None
        self._continue_waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self.closed = False
        self.request_sent = True
        """Whether the request has left as a whole."""
        self.body_task: asyncio.Task[None] | None = None
        """Who sends the body; ends with the request."""

    # The request.

    def send_request(self, method: str, head: bytes, *, complete: bool) -> None:
        """Send the head of a request; `whole`: that is all of it."""
        self.response.start_response(method)
        self._active = True
        self.request_sent = complete
        self._transport.write(head)

    async def wait_for_100_continue(self) -> bool:
        """Wait until the service asks for the body with a 100; false where it has answered without."""
        while not (self.response.got_100_continue or self.response.headers_complete or self.closed):
            self._continue_waiter = self._loop.create_future()
            await self._continue_waiter
        return not (self.response.headers_complete or self.closed)

    async def send_body(self, chunks: tuple[bytes, ...]) -> bool:
        """Send a part of the body, uncopied, and wait until the service takes more; false where it never will."""
        if not self.closed:
            self._transport.writelines(chunks)
        while self._write_paused and not self.closed:
            self._drain_waiter = self._loop.create_future()
            await self._drain_waiter
        return not self.closed

    # The answer.

    async def receive_headers(self) -> None:
        """Wait for the status and the fields of the answer."""
        while not self.response.headers_complete:
            await self._wait_for_data()

    async def read(self) -> bytes:
        """Wait for the next piece of the body; none at its end."""
        answer = self.response
        while answer.empty:
            if answer.message_complete:
                return b""
            await self._wait_for_data()
        data = answer.next_chunk()
        if self._reading_paused and answer.buffered <= READ_BUFFER_LOW_WATER:
            self._reading_paused = False
            if not self.closed:
                self._transport.resume_reading()
        return data

    @property
    def response_consumed(self) -> bool:
        """Whether all of the answer was read."""
        return self.response.message_complete and self.response.empty

    def _wait_for_data(self) -> asyncio.Future[None]:
        """Done when more of the answer has come, or will not. Raises why, where that is known."""
        if self._failure is not None:
            raise self._failure
        self._response_waiter = heard = self._loop.create_future()
        return heard

    # The end.

    def release(self) -> None:
        """The request is over, or given up: then the connection is closed."""
        self._active = False
        if (sending := self.body_task) is not None:
            self.body_task = None
            sending.cancel()
        if self.response_consumed and self.response.reusable and self.request_sent and not self.closed:
            self._on_idle(self)
        else:
            self.abort()

    def fail(self, error: Exception) -> None:
        """There will be no answer, or no more of one that has begun."""
        if self._failure is None:
            self._failure = error
        self.abort()

    def abort(self) -> None:
        """Close at once: what was not sent never will be."""
        if not self.closed:
            self.closed = True
            self._on_closed(self)
        self._transport.abort()
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        for waiter in (self._response_waiter, self._continue_waiter, self._drain_waiter):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    # What the connection calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer, cut anywhere."""
        if not self._active:
            self.abort()  # an answer to nothing: what comes next would be taken for another request's
            return
        answer = self.response
        try:
            answer.receive_data(data)
        except RemoteProtocolError as error:
            self.fail(error)
            return
        if answer.buffered > READ_BUFFER_HIGH_WATER and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        if (heard := self._response_waiter) is not None and not heard.done():
            heard.set_result(None)
        if (permitted := self._continue_waiter) is not None and not permitted.done():
            permitted.set_result(None)

    def eof_received(self) -> None:
        """The service closes in order: that ends an answer without a length, and breaks any other off."""
        if self._active and not self.response.message_complete and not self.response.receive_eof():
            self.fail(ServerDisconnected("the upstream closed the connection"))
        elif not self.closed:
            self.closed = True
            self._on_closed(self)
            self._wake_waiters()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; what came before can still be read."""
        if self._failure is None:
            self._failure = ServerDisconnected(str(exc) if exc else "the connection is closed")
        if not self.closed:
            self.closed = True
            self._on_closed(self)
        self._wake_waiters()

    def pause_writing(self) -> None:
        """The service takes no more for now."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """It takes more."""
        self._write_paused = False
        if (drained := self._drain_waiter) is not None and not drained.done():
            drained.set_result(None)
