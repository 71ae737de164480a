"""Hands a connection over to the WebSocket protocol that uvicorn was given. It knows no rule of a head and no frame."""

import asyncio
from typing import Any, cast

from services.common.server.request_body import Bodies


class Upgrades(Bodies):
    """The part of a connection that becomes another protocol's."""

    def hand_over(self, raw: asyncio.Transport, rest: bytes) -> None:
        """With the head of the request, and `rest`, which already came behind it."""
        self.connections.discard(self)
        self._wire.flush()
        self.taking.stop()
        self.stop_clock()
        lines = [b"%s: %s\r\n" % field for field in self.headers]
        head = b"".join([b"GET ", self.url, b" HTTP/1.1\r\n", *lines, b"\r\n"])
        make = cast("Any", self.ws_protocol_class)
        protocol = make(config=self.config, server_state=self.server_state, app_state=self.app_state)
        protocol.connection_made(raw)
        if self.flow.write_paused:  # by what was answered before; the transport says it once
            protocol.pause_writing()
        protocol.data_received(head)
        raw.set_protocol(protocol)
        if rest:
            protocol.data_received(rest)
        # Each refers back to this object, and a WebSocket lives for days.
        del self.parser, self.flow, self.transport, self._wire
