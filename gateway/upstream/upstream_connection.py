"""One HTTP/1.1 connection to an upstream: sends a request, receives its response.

Flow control bounds both directions: reading pauses while more than one read waits for the client, and `send_body` waits while the
upstream accepts no more.
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import cast

from gateway.upstream.read_buffer import ReadBuffer
from gateway.upstream.response_parser import RemoteProtocolError, ResponseParser
from services.common.errors import drop_tracebacks

READ_BUFFER_LOW_WATER = 64 * 1024
"""Bytes of a response, received and not yet read, at which reading resumes."""


class ServerDisconnected(Exception):
    """The connection closed before or during a response."""


class UpstreamConnectionState(Enum):
    """What a connection carries at the moment."""

    NEW = auto()
    """Nothing yet: no request was sent."""
    ACTIVE = auto()
    """A request whose response is not released."""
    IDLE = auto()
    """Nothing: the last request was completed, and the connection may be reused."""
    CLOSED = auto()
    """Nothing any more. What was received before can still be read."""


# Module names: Python 3.11 needs 46 ns for a member of an enum.
_ACTIVE, _IDLE, _CLOSED = UpstreamConnectionState.ACTIVE, UpstreamConnectionState.IDLE, UpstreamConnectionState.CLOSED


class UpstreamConnection(asyncio.BufferedProtocol):
    """A connection that carries one request at a time.

    Waiting for a response raises ServerDisconnected or RemoteProtocolError where none arrives.
    """

    __slots__ = (
        "_continue_waiter",
        "_drain_waiter",
        "_failure",
        "_loop",
        "_on_closed",
        "_on_idle",
        "_read_buffer",
        "_reading_paused",
        "_response_waiter",
        "_state",
        "_transport",
        "_write_paused",
        "body_task",
        "request_sent",
        "response",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        read_buffer: ReadBuffer,
        on_idle: Callable[["UpstreamConnection"], None],
        on_closed: Callable[["UpstreamConnection"], None],
    ) -> None:
        """`on_idle` is called when the connection may carry another request, `on_closed` once when it never will."""
        self._loop = loop
        self._read_buffer = read_buffer
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport
        self._state = UpstreamConnectionState.NEW
        self.response = ResponseParser()
        """Its status and headers are valid after `receive_headers`."""
        self._reading_paused = self._write_paused = False
        self._failure: ServerDisconnected | RemoteProtocolError | None = None
        """Never raised itself: its traceback would hold this connection, and all that the request has in memory."""
        self._response_waiter: asyncio.Future[None] | None = None
        self._continue_waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self.request_sent = True
        """Whether the whole request was sent."""
        self.body_task: asyncio.Task[None] | None = None
        """Sends the body; cancelled when the request is released."""

    # The request.

    def send_request(self, method: str, head: bytes, *, complete: bool) -> None:
        """Send the head of a request. `complete`: no body follows."""
        self.response.start_response(method)
        self._state = _ACTIVE
        self.request_sent = complete
        self._transport.write(head)

    async def wait_for_100_continue(self) -> bool:
        """Wait for a 100 (RFC 9110, 10.1.1). Returns False where the final response or the end of the connection came first."""
        while not (self.response.got_100_continue or self.response.headers_complete or self._state is _CLOSED):
            self._continue_waiter = self._loop.create_future()
            await self._continue_waiter
        return not (self.response.headers_complete or self._state is _CLOSED)

    async def send_body(self, chunks: tuple[bytes, ...]) -> bool:
        """Send a part of the body without copying it, and wait until the upstream accepts more.

        Returns False where the connection is closed.
        """
        if self._state is not _CLOSED:
            self._transport.writelines(chunks)
        while self._write_paused and self._state is not _CLOSED:
            self._drain_waiter = self._loop.create_future()
            await self._drain_waiter
        return self._state is not _CLOSED

    # The response.

    async def receive_headers(self) -> None:
        """Wait for the status and the headers of the response."""
        while not self.response.headers_complete:
            await self._wait_for_data()

    async def read(self) -> bytes:
        """Return the next chunk of the body; empty at its end."""
        response = self.response
        while response.empty:
            if response.message_complete:
                return b""
            await self._wait_for_data()
        data = response.next_chunk()
        if self._reading_paused and response.buffered <= READ_BUFFER_LOW_WATER:
            self._reading_paused = False
            if self._state is not _CLOSED:
                self._transport.resume_reading()
        return data

    @property
    def response_consumed(self) -> bool:
        """Whether the whole response was read."""
        return self.response.message_complete and self.response.empty

    def _wait_for_data(self) -> asyncio.Future[None]:
        """Return a future that is done when more was received or the connection closed. Raises the failure where there is one."""
        if (failure := self._failure) is not None:
            raise type(failure)(*failure.args)
        self._response_waiter = waiter = self._loop.create_future()
        return waiter

    # The end.

    def release(self) -> None:
        """End the request. The connection becomes idle if its response was read completely; otherwise it is closed."""
        if (task := self.body_task) is not None:
            self.body_task = None
            task.cancel()
        if self._state is _ACTIVE and self.response_consumed and self.response.reusable and self.request_sent:
            self._state = _IDLE
            self._on_idle(self)
        else:
            self.abort()

    def fail(self, error: ServerDisconnected | RemoteProtocolError) -> None:
        """Close the connection; waiting for the response raises an error like `error`."""
        if self._failure is None:
            drop_tracebacks(error)
            self._failure = error
        self.abort()

    def abort(self) -> None:
        """Close the connection at once, and discard what is not sent."""
        self._set_closed()
        self._transport.abort()
        self._wake_waiters()

    def _set_closed(self) -> None:
        if self._state is not _CLOSED:
            self._state = _CLOSED
            self.response.close()
            self._on_closed(self)

    def _wake_waiters(self) -> None:
        for waiter in (self._response_waiter, self._continue_waiter, self._drain_waiter):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return memory for the next read."""
        del sizehint
        return self._read_buffer.memory

    def buffer_updated(self, nbytes: int) -> None:
        """Parse received bytes, which may be split anywhere."""
        data = self._read_buffer.copy(nbytes)
        if self._state is not _ACTIVE:
            self.abort()  # an unsolicited response: it would be taken for the response to the next request
            return
        response = self.response
        try:
            response.receive_data(data)
        except RemoteProtocolError as error:
            self.fail(error)
            return
        if response.buffered > self._read_buffer.read_size and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        if (waiter := self._response_waiter) is not None and not waiter.done():
            waiter.set_result(None)
        if (waiter := self._continue_waiter) is not None and not waiter.done():
            waiter.set_result(None)

    def eof_received(self) -> None:
        """Handle the upstream's FIN: it completes a response that is delimited by it, and breaks off any other (RFC 9112, 6.3)."""
        if self._state is _ACTIVE and not self.response.message_complete and not self.response.receive_eof():
            self.fail(ServerDisconnected("the upstream closed the connection"))
        else:
            self._set_closed()
            self._wake_waiters()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake all waiters. What was received before can still be read."""
        if self._failure is None:
            self._failure = ServerDisconnected(str(exc) if exc else "the connection is closed")
        self._set_closed()
        self._wake_waiters()

    def pause_writing(self) -> None:
        """Make `send_body` wait: the write buffer is full."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Let `send_body` go on: the upstream has accepted most of the write buffer."""
        self._write_paused = False
        if (waiter := self._drain_waiter) is not None and not waiter.done():
            waiter.set_result(None)
