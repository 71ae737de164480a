"""TCP connections without an HTTP client, for tests that send exact bytes, stop reading or close at a chosen moment."""

import contextlib
import socket
import struct

WEBSOCKET_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
"""A complete request for /ws that the services accept (RFC 6455, 4.1)."""


def accepts_connections(port: int) -> bool:
    """Return True once a loopback port accepts a connection. Raises OSError before that, which `eventually` takes as false."""
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    return True


def receive_until_closed(client: socket.socket) -> bytes:
    """Return all bytes that still arrive; a reset ends them like a FIN."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def close_with_reset(client: socket.socket) -> None:
    """Close with a RST. After a FIN a client may still wait for its response; after this it has gone."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def receive_until_eof(client: socket.socket) -> None:
    """Discard all bytes that still arrive. Raises ConnectionResetError where a reset ends them."""
    while client.recv(65536):
        pass
