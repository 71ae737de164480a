"""Free TCP ports of the loopback address. Knows nothing of who will listen on them."""

import contextlib
import errno
import secrets
import socket

from deploy.local.failure import Failure

HOST = "127.0.0.1"

# Below the range from which systems take the ports of outgoing connections: there, a port found free could be some
# client's a moment later, or a client that knocks at it could be connected to itself.
LOWEST, HIGHEST = 20_000, 32_000


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody listens on now."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST)
        for _ in range(HIGHEST - LOWEST):
            if len(found) == count:
                return found
            port = port + 1 if port < HIGHEST else LOWEST
            with contextlib.suppress(OSError):
                held.enter_context(_listening(port))
                found.append(port)
    raise Failure(f"no {count} free ports between {LOWEST} and {HIGHEST}")


def must_be_free(port: int) -> None:
    if not 1 <= port <= 65535:
        raise Failure(f"port {port} is no port number; choose one from 1 to 65535 with PORT=")
    try:
        _listening(port).close()
    except OSError as error:
        reason = "is already taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise Failure(f"port {port} {reason}; choose another one with PORT=") from error


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As the servers do it: the remains of closed connections do not make a port taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener
