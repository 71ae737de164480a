"""One connection to a replica: a request goes out, its answer comes in. It knows no replica, no pool and no retry.

Both ways are bounded: reading pauses while HIGH bytes wait for the client, and `drain` waits while the service takes no more.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from gateway.answers import Answer, Unreadable

HIGH = 256 * 1024
"""Bytes of an answer that wait here for the client to take them; then the service is not read until all but LOW are taken."""
LOW = 64 * 1024


class Gone(Exception):
    """The connection broke: before an answer, or in the middle of it."""


class Line(asyncio.Protocol):
    """A connection with at most one request on it at a time. Whoever awaits an answer gets Gone or Unreadable where none comes."""

    __slots__ = (
        "_asked",
        "_drained",
        "_failure",
        "_free",
        "_heard",
        "_loop",
        "_lost",
        "_paused",
        "_permitted",
        "_stuck",
        "_transport",
        "answer",
        "closed",
        "sending",
        "sent",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, free: Callable[["Line"], None], lost: Callable[["Line"], None]
    ) -> None:
        """`free` is told when it may carry another request, `lost` when it never will."""
        self._loop = loop
        self._free = free
        self._lost = lost
        self._transport: asyncio.Transport
        self.answer = Answer()
        """Its status and its fields may be looked at after `head`."""
        self._asked = self._paused = self._stuck = False
        self._failure: Exception | None = None
        self._heard: asyncio.Future[None] | None = None
        self._permitted: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self.closed = False
        self.sent = True
        """Whether the request has left as a whole."""
        self.sending: asyncio.Task[None] | None = None
        """Who sends the body; ends with the request."""

    # The request.

    def ask(self, method: str, head: bytes, *, whole: bool) -> None:
        """Send the head of a request; `whole`: that is all of it."""
        self.answer.begin(method)
        self._asked = True
        self.sent = whole
        self._transport.write(head)

    async def permission(self) -> bool:
        """Wait until the service asks for the body with a 100; false where it has answered without."""
        while not (self.answer.continued or self.answer.ready or self.closed):
            self._permitted = self._loop.create_future()
            await self._permitted
        return not (self.answer.ready or self.closed)

    async def send(self, pieces: tuple[bytes, ...]) -> bool:
        """Send a part of the body, uncopied, and wait until the service takes more; false where it never will."""
        if not self.closed:
            self._transport.writelines(pieces)
        while self._stuck and not self.closed:
            self._drained = self._loop.create_future()
            await self._drained
        return not self.closed

    # The answer.

    async def head(self) -> None:
        """Wait for the status and the fields of the answer."""
        while not self.answer.ready:
            await self._hear()

    async def read(self) -> bytes:
        """Wait for the next piece of the body; none at its end."""
        answer = self.answer
        while answer.empty:
            if answer.over:
                return b""
            await self._hear()
        data = answer.take()
        if self._paused and answer.waiting <= LOW:
            self._paused = False
            if not self.closed:
                self._transport.resume_reading()
        return data

    @property
    def ended(self) -> bool:
        """Whether all of the answer was read."""
        return self.answer.over and self.answer.empty

    def _hear(self) -> asyncio.Future[None]:
        """Done when more of the answer has come, or will not. Raises why, where that is known."""
        if self._failure is not None:
            raise self._failure
        self._heard = heard = self._loop.create_future()
        return heard

    # The end.

    def release(self) -> None:
        """The request is over, or given up: then the connection is closed."""
        self._asked = False
        if (sending := self.sending) is not None:
            self.sending = None
            sending.cancel()
        if self.ended and self.answer.clean and self.sent and not self.closed:
            self._free(self)
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
            self._lost(self)
        self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        for waiter in (self._heard, self._permitted, self._drained):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    # What the connection calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer, cut anywhere."""
        if not self._asked:
            self.abort()  # an answer to nothing: what comes next would be taken for another request's
            return
        answer = self.answer
        try:
            answer.feed(data)
        except Unreadable as error:
            self.fail(error)
            return
        if answer.waiting > HIGH and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if (heard := self._heard) is not None and not heard.done():
            heard.set_result(None)
        if (permitted := self._permitted) is not None and not permitted.done():
            permitted.set_result(None)

    def eof_received(self) -> None:
        """The service closes in order: that ends an answer without a length, and breaks any other off."""
        if self._asked and not self.answer.over and not self.answer.end():
            self.fail(Gone("the service closed the connection"))
        elif not self.closed:
            self.closed = True
            self._lost(self)
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; what came before can still be read."""
        if self._failure is None:
            self._failure = Gone(str(exc) if exc else "the connection is closed")
        if not self.closed:
            self.closed = True
            self._lost(self)
        self._wake()

    def pause_writing(self) -> None:
        """The service takes no more for now."""
        self._stuck = True

    def resume_writing(self) -> None:
        """It takes more."""
        self._stuck = False
        if (drained := self._drained) is not None and not drained.done():
            drained.set_result(None)
