"""The hand-over of a connection from HTTP to a WebSocket protocol (RFC 6455, 4.2)."""

import asyncio
from dataclasses import dataclass
from typing import Any

from services.common.http.headers import Header
from services.common.http.request_head import RequestHead


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A handshake as it was handed over. Names in `headers` are in lower case."""

    target: bytes
    headers: list[Header]


def parse_upgrade_request(data: bytes) -> UpgradeRequest:
    """Parse what `switch_to_websocket` hands over. The server has validated it, so nothing is checked again."""
    first, *lines = data[:-4].split(b"\r\n")
    pairs = (line.partition(b": ") for line in lines)
    return UpgradeRequest(first.split(b" ")[1], [(name.lower(), value) for name, _, value in pairs])


def switch_to_websocket(
    transport: asyncio.Transport, protocol: Any, head: RequestHead, trailing_data: bytes, *, write_paused: bool
) -> None:
    """Hand a connection over to `protocol`, with the head of the handshake and the bytes that came behind it.

    `protocol` is an asyncio.Protocol that begins with the request as its first data; uvicorn hands over in the same way, so that a
    class made for it works under both. `write_paused`: the client has not taken what was answered before; a transport says so only
    once.
    """
    lines = [b"%s: %s\r\n" % header for header in head.headers]
    protocol.connection_made(transport)
    if write_paused:
        protocol.pause_writing()
    protocol.data_received(b"".join([b"GET ", head.target, b" HTTP/1.1\r\n", *lines, b"\r\n"]))
    transport.set_protocol(protocol)
    if trailing_data:
        protocol.data_received(trailing_data)
