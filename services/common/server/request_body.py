"""A request's body on its way from the connection to the application: uncopied, and past the parser where its length is known.

uvicorn gathers a body in a bytearray and hands out copies of it, and httptools makes a copy of each piece: in an upload through the
gateway that was 40 % of the CPU. A chunked body goes through the parser as before. This knows no rule of a head.
"""

from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from services.common.server.cycle import Cycles


class Bodies(Cycles):
    """The part of a connection that takes bodies. `expect_body` is told of each, `feed` of each piece of what arrives."""

    _raw_body = False
    _moved = False
    _barren = 0

    def expect_body(self, length: int | None) -> None:
        """A head was read; behind it come so many bytes, or none, or chunks (None)."""
        self._left = length
        self._moved = True

    def feed(self, data: bytes) -> int:
        """Bytes as they arrived. Raises HttpParserError, or HttpParserUpgrade with the bytes behind the head.

        The result counts the bytes since anything came of them: of a field, a trailer or a chunk's extension that is not whole. The
        parser holds them, so somebody must set a limit.
        """
        if self._raw_body:
            data = self._feed_raw(data, cast("int", self._left))
            if not data:
                return 0
        self._moved = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            raise httptools.HttpParserUpgrade(data[upgrade.args[0] :]) from None
        self._raw_body = bool(self._left)
        self._barren = 0 if self._moved else self._barren + len(data)
        return self._barren

    def _feed_raw(self, data: bytes, left: int) -> bytes:
        """The rest of a body; returns what stands behind it."""
        if len(data) < left:
            self.on_body(data)
            return b""
        self.on_body(data[:left])
        self._raw_body = False
        self.parser = httptools.HttpRequestParser(self)  # the other one stands in the middle of this body
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self.on_message_complete()
        return data[left:]

    def on_body(self, body: bytes) -> None:
        """A piece of the body. Where the application has taken the one before, this is handed over as it is."""
        self._moved = True
        if self._left is not None:
            self._left -= len(body)
        cycle: Any = self.cycle
        if cycle.response_complete:
            return
        waiting = cycle.body
        if not waiting:
            cycle.body = cast(
                "bytearray", body
            )  # `receive` makes bytes of it, which costs nothing where it is that already
        elif isinstance(waiting, bytearray):
            waiting += body
        else:
            cycle.body = bytearray().join((waiting, body))
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()
