"""TCP as the server sees it: addresses, socket options and what the kernel knows of a connection.

Linux answers all of these. Where a platform does not, the functions say None or False, and nothing depends on more.
"""

import asyncio
import socket
import struct
from enum import Enum, auto

try:
    import fcntl
    import termios
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

MAX_UNSENT = 128 * 1024
"""Bytes that the kernel takes without sending them. By default it took a third of its own buffer, 1.3 MB, before it asked for
more, and that is 80 s of a radio station: who reads slowly looked like one who does not read.
"""
_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)

_TCP_CLOSE, _TCP_CLOSE_WAIT = 7, 8
"""The states behind a reset and behind a FIN (Linux, netinet/tcp.h)."""


class PeerState(Enum):
    """What a peer has done with its connection, as the kernel knows it."""

    OPEN = auto()
    """Nothing, or it cannot be known."""
    HALF_CLOSED = auto()
    """It has sent a FIN: it sends nothing more, and may still read."""
    CLOSED = auto()
    """It has reset the connection."""


def limit_unsent(transport: asyncio.BaseTransport) -> None:
    """Let the kernel hold no more than MAX_UNSENT bytes that it has not sent (TCP_NOTSENT_LOWAT)."""
    if _NOTSENT_LOWAT is not None and (client := transport.get_extra_info("socket")) is not None:
        client.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, MAX_UNSENT)


def peer_state(transport: asyncio.BaseTransport) -> PeerState:
    """Return what the peer has done. Needed where a connection is not being read, and so does not notice it."""
    if (client := transport.get_extra_info("socket")) is None or not hasattr(socket, "TCP_INFO"):
        return PeerState.OPEN
    try:
        state: int = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return PeerState.OPEN
    if state == _TCP_CLOSE_WAIT:
        return PeerState.HALF_CLOSED
    return PeerState.CLOSED if state == _TCP_CLOSE else PeerState.OPEN


def peer_has_gone(transport: asyncio.BaseTransport, missing_bytes: int | None) -> bool:
    """Return whether the peer has gone: by a reset, or by a FIN while it owes `missing_bytes` (None: unknown).

    A peer that has sent a FIN behind all that it owes may wait for an answer.
    """
    state = peer_state(transport)
    if state is not PeerState.HALF_CLOSED:
        return state is PeerState.CLOSED
    return missing_bytes is not None and missing_bytes > unread_bytes(transport)


def unread_bytes(transport: asyncio.BaseTransport) -> int:
    """Return the bytes that the kernel has received and we have not read (FIONREAD); 0 where that cannot be known."""
    return _ioctl_count(transport, "FIONREAD") or 0


def unacknowledged_bytes(transport: asyncio.BaseTransport) -> int | None:
    """Return the bytes in the kernel's send buffer that the peer has not acknowledged (TIOCOUTQ); None where it cannot be known."""
    return _ioctl_count(transport, "TIOCOUTQ")


def _ioctl_count(transport: asyncio.BaseTransport, request: str) -> int | None:
    """Return the number that an ioctl of termios gives for a socket; None where there is none."""
    client = transport.get_extra_info("socket")
    if client is None or fcntl is None:
        return None
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(client.fileno(), getattr(termios, request), b"\0\0\0\0"))
    except OSError:
        return None
    return int(count)


def reset(transport: asyncio.Transport) -> None:
    """Abort a connection with a RST, so that the peer does not take what it has for the whole (SO_LINGER of zero seconds)."""
    if (client := transport.get_extra_info("socket")) is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def peer_address(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    """Return host and port of the client; None where it has none (a Unix socket) or has gone."""
    address = transport.get_extra_info("peername")
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None


def local_address(transport: asyncio.BaseTransport) -> tuple[str, int | None] | None:
    """Return host and port at which the client was accepted, or a Unix socket's path and None."""
    address = transport.get_extra_info("sockname")
    if isinstance(address, tuple):
        return str(address[0]), int(address[1])
    return (address, None) if isinstance(address, str) else None
