"""TCP connections without an HTTP client, for tests that send exact bytes, stop reading or close at a chosen moment."""

import socket


def accepts_connections(port: int) -> bool:
    """Return True once a loopback port accepts a connection. Raises OSError before that, which `eventually` takes as false."""
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    return True
