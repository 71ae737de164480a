"""Bounds what the kernel buffers of a download: a process that is killed loses it, and it is transferred again.

Only where that slows nothing down: a connection carries at most a buffer in each round trip, so over a long distance the kernel
chooses. There the network is slower than this process, and the buffer is nearly empty.
"""

import socket
import struct
from functools import cache
from typing import Protocol

BUFFER_BYTES = 512 * 1024
"""Linux doubles it for its bookkeeping."""
MIN_BYTES_PER_SECOND = 100e6
_MIN_RTT_OFFSET = 148
"""Of `tcpi_min_rtt` in `struct tcp_info` (linux/tcp.h, since Linux 4.6): microseconds in 32 bits."""


class TcpSocket(Protocol):
    """What is needed of a socket, and what one of asyncio has."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...

    def setsockopt(self, level: int, optname: int, value: int, /) -> None: ...


def bound_receive_buffer(connection: TcpSocket | None) -> None:
    """Set the size of the receive buffer where the round trip is short; do nothing elsewhere, and where the system cannot tell."""
    rtt = None if connection is None else _round_trip_seconds(connection)
    if connection is not None and rtt is not None and is_worthwhile(rtt, _granted_bytes()):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)


def is_worthwhile(round_trip_seconds: float, buffer_bytes: int) -> bool:
    """Return whether a buffer of this size in each round trip is fast enough."""
    return buffer_bytes >= round_trip_seconds * MIN_BYTES_PER_SECOND


def _round_trip_seconds(connection: TcpSocket) -> float | None:
    """Return the shortest round trip of a connection."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except (AttributeError, OSError):
        return None
    if len(info) < _MIN_RTT_OFFSET + 4:
        return None
    microseconds: int = struct.unpack_from("=I", info, _MIN_RTT_OFFSET)[0]
    return microseconds / 1e6


@cache
def _granted_bytes() -> int:
    """Return what the system gives to who asks for BUFFER_BYTES: `net.core.rmem_max` may be less."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        return probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
