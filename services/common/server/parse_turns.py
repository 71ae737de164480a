"""Fair turns: a long read is parsed piece by piece, and other connections have their turn of the event loop in between."""

import asyncio
from collections.abc import Callable

from services.common.http.request_parser import RequestParser
from services.common.server.transport import CoalescingTransport

BYTES_PER_TURN = 16 * 1024
"""Bytes that are parsed at once, unless they are of a body whose length is known. Forty uploads in chunks of one byte made others
wait 2.5 s where a whole read was parsed at once, 0.3 s like this.
"""


class ParseTurns:
    """Passes what was read to `parse`, at most BYTES_PER_TURN in one turn. Nothing more is read until all of it is parsed."""

    __slots__ = ("_loop", "_parse", "_parser", "_rest", "_transport")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: CoalescingTransport,
        parser: RequestParser,
        parse: Callable[[bytes], None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._parser = parser
        self._parse = parse
        self._rest = memoryview(b"")

    def start(self, data: bytes) -> None:
        """Parse the first piece; the others follow in later turns. Called when nothing is left of an earlier read."""
        self._rest = memoryview(data)
        self._transport.hold_reading()
        self._run()

    def take_rest(self) -> bytes:
        """Return what is not parsed yet, and drop it here: the connection ends, or another protocol takes it over."""
        rest, self._rest = bytes(self._rest), memoryview(b"")
        if rest:
            self._transport.release_reading()
        return rest

    def _run(self) -> None:
        if not self._rest:
            return  # it was taken meanwhile
        piece, self._rest = bytes(self._rest[:BYTES_PER_TURN]), self._rest[BYTES_PER_TURN:]
        self._parse(piece)
        if self._rest and self._parser.reads_raw_body:
            piece, self._rest = bytes(self._rest), memoryview(b"")
            self._parse(piece)
        if self._rest:
            self._loop.call_soon(self._run)
        else:
            self._transport.release_reading()
