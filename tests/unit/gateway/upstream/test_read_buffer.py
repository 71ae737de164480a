"""gateway.upstream.read_buffer: the more clients are stalled, the less is read at once."""

import pytest

from gateway.upstream.read_buffer import (
    MAX_READ_BYTES,
    MIN_READ_BYTES,
    READS_PER_CLIENT,
    STALLED_BUDGET_BYTES,
    ReadBuffer,
)


@pytest.mark.parametrize(
    ("stalled", "size"),
    [(1, MAX_READ_BYTES), (32, MAX_READ_BYTES), (64, MAX_READ_BYTES // 2), (5000, MIN_READ_BYTES)],
)
def test_read_size(stalled: int, size: int) -> None:
    buffer = ReadBuffer()
    for _ in range(stalled):
        buffer.client_stalled()
    assert buffer.read_size == len(buffer.memory) == size
    for _ in range(stalled):
        buffer.client_resumed()
    assert buffer.read_size == len(buffer.memory) == MAX_READ_BYTES


def test_memory_of_clients_that_stall_one_after_the_other_is_bounded() -> None:
    buffer, held = ReadBuffer(), 0
    for _ in range(1000):
        held += buffer.read_size * READS_PER_CLIENT
        buffer.client_stalled()
    assert held < 6 * STALLED_BUDGET_BYTES


def test_what_was_read_is_copied() -> None:
    buffer = ReadBuffer()
    buffer.memory[:3] = b"abc"
    first = buffer.copy(3)
    buffer.memory[:3] = b"xyz"
    assert first == b"abc"
