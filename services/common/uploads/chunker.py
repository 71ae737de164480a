"""Cuts bytes, arriving in pieces of any size, into blocks of one size. Pure.

A block is filled in a buffer of its own size that is used again and again: growing memory costs more than copying the bytes.
"""


class Chunker:
    """Collects bytes: complete blocks that were not taken yet, and the beginning of the next one."""

    def __init__(self, block_size: int) -> None:
        self.complete_blocks: list[bytes] = []
        self._block_size = block_size
        # A view: bytes assigned to a slice of the bytearray itself are copied twice.
        self._buffer = memoryview(bytearray(block_size))
        self._filled = 0

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        remaining = memoryview(data)
        while remaining:
            count = min(len(remaining), self._block_size - self._filled)
            self._buffer[self._filled : self._filled + count] = remaining[:count]
            self._filled += count
            remaining = remaining[count:]
            if self._filled == self._block_size:
                self.complete_blocks.append(bytes(self._buffer))
                self._filled = 0

    @property
    def tail(self) -> bytes:
        """The bytes after the last complete block."""
        return bytes(self._buffer[: self._filled])

    def __len__(self) -> int:
        return len(self.complete_blocks) * self._block_size + self._filled

    def pop_blocks(self, limit: int) -> list[bytes]:
        """Remove and return up to `limit` complete blocks, the oldest first."""
        popped, self.complete_blocks = self.complete_blocks[:limit], self.complete_blocks[limit:]
        return popped

    def flush(self) -> list[bytes]:
        """Remove and return all that is left: the last block may be short."""
        blocks = [*self.complete_blocks, self.tail] if self._filled else self.complete_blocks
        self.complete_blocks, self._filled = [], 0
        return blocks
