"""The buffer into which all connections of a pool read, and how much one of them may read at once.

A response that is read faster than its client takes it waits in memory, up to four reads of it. With reads of 256 KiB each 300
stopped clients took 250 MiB. So the more clients are stalled, the less is read at once.
"""

MAX_READ_BYTES = 256 * 1024
"""Largest read."""
MIN_READ_BYTES = 16 * 1024
"""Smallest read: below, the system calls cost more than the memory is worth."""
STALLED_BUDGET_BYTES = 32 * 1024 * 1024
"""Memory that stalled clients may share before reads become smaller. Beyond, memory grows with the logarithm of their number."""
READS_PER_CLIENT = 4
"""Reads that may wait for one client: two in the write buffer, one of them partly sent, and two of the upstream's connection."""


class ReadBuffer:
    """Scratch memory that is filled and copied in one callback of the event loop, so one is enough for all connections of a loop.

    Attributes:
        memory: where the next read goes.
        read_size: its length, the bytes that one connection may read at once.
    """

    __slots__ = ("_buffer", "_stalled_clients", "memory", "read_size")

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(MAX_READ_BYTES))
        self._stalled_clients = 0
        self.memory = self._buffer
        self.read_size = MAX_READ_BYTES

    def client_stalled(self) -> None:
        """Note that a client has not taken what was sent to it."""
        self._stalled_clients += 1
        self._resize()

    def client_resumed(self) -> None:
        """Note that a client that was stalled has taken most of it, or has gone."""
        self._stalled_clients -= 1
        self._resize()

    def copy(self, count: int) -> bytes:
        """Return the bytes that were read."""
        return bytes(self._buffer[:count])

    def _resize(self) -> None:
        share = STALLED_BUDGET_BYTES // (max(1, self._stalled_clients) * READS_PER_CLIENT)
        size = min(MAX_READ_BYTES, max(MIN_READ_BYTES, share))
        if size != self.read_size:
            self.read_size = size
            self.memory = self._buffer[:size]
