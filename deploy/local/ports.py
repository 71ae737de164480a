"""Finds free TCP ports of the loopback address."""

import contextlib
import errno
import secrets
import socket

from deploy.local.errors import StackError

HOST = "127.0.0.1"

# Below the ephemeral port range. In that range a free port can become the local port of a client a moment later, and a client that
# connects to an unused port can be connected to itself.
MIN_PORT, MAX_PORT = 20_000, 32_000


def free_ports(count: int) -> list[int]:
    """`count` different ports on which no process listens now. Raises StackError if there are not enough."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        port = MIN_PORT + secrets.randbelow(MAX_PORT - MIN_PORT)
        for _ in range(MAX_PORT - MIN_PORT):
            if len(found) == count:
                return found
            port = port + 1 if port < MAX_PORT else MIN_PORT
            with contextlib.suppress(OSError):
                held.enter_context(_listen(port))
                found.append(port)
    raise StackError(f"no {count} free ports between {MIN_PORT} and {MAX_PORT}")


def is_free(port: int) -> bool:
    """Return whether a server can listen on `port`."""
    try:
        _listen(port).close()
    except (OSError, OverflowError):
        return False
    return True


def check_port_is_free(port: int) -> None:
    """Raise StackError unless a server can listen on `port`."""
    if not 1 <= port <= 65535:
        raise StackError(f"port {port} is no port number; choose one from 1 to 65535 with PORT=")
    try:
        _listen(port).close()
    except OSError as error:
        reason = "is already taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise StackError(f"port {port} {reason}; choose another one with PORT=") from error


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As the servers do: connections in TIME_WAIT do not occupy the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener
