"""The bound of what the kernel buffers of a download, on real sockets."""

import asyncio
import select
import socket
from contextlib import ExitStack

import pytest

from gridcast._receive_buffer import BUFFER_BYTES, bound_receive_buffer, is_worthwhile


@pytest.mark.parametrize(
    ("round_trip_seconds", "buffer_bytes", "expected"),
    [
        (0.0, 1, True),
        (0.001, 212_992, True),
        (0.005, 512 * 1024, True),
        (0.006, 512 * 1024, False),
        (0.1, 2**20, False),
    ],
)
def test_a_long_distance_keeps_its_buffer(round_trip_seconds: float, buffer_bytes: int, *, expected: bool) -> None:
    assert is_worthwhile(round_trip_seconds, buffer_bytes) is expected


def test_a_reader_that_stands_still_holds_little() -> None:
    """A writer fills what a stopped reader's kernel takes: bounded, not the many megabytes to which it would grow."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        reader = stack.enter_context(socket.create_connection(listener.getsockname()))
        writer = stack.enter_context(listener.accept()[0])
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        before = reader.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        bound_receive_buffer(reader)
        assert reader.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) != before
        assert reader.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * BUFFER_BYTES
        writer.setblocking(False)
        sent = 0
        while select.select([], [writer], [], 0.3)[1]:
            sent += writer.send(bytes(64 * 1024))
            assert sent <= 3 * BUFFER_BYTES
        assert sent > 0


async def _bound_of_asyncio(port: int) -> int:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = writer.get_extra_info("socket")
    bound_receive_buffer(connection)
    size: int = connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    writer.close()
    return size


def test_sockets_of_asyncio_are_bounded_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert asyncio.run(_bound_of_asyncio(listener.getsockname()[1])) <= 2 * BUFFER_BYTES


def test_what_is_no_tcp_socket_is_left_alone() -> None:
    bound_receive_buffer(None)
    one, other = socket.socketpair()
    with one, other:
        before = one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        bound_receive_buffer(one)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == before
