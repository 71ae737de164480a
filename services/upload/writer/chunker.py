"""Cuts bytes, in pieces of any size, into blocks of one size. Pure: it knows neither store nor hash.

A block is filled in a buffer of its own size that is used again and again: memory that grows costs more than the bytes' copies.
"""


class Chunker:
    """The whole blocks that nobody has taken yet, and the beginning of the next one."""

    def __init__(self, block_size: int) -> None:
        self.complete_blocks: list[bytes] = []
        self._block_size = block_size
        # A view: what is assigned to a slice of a bytearray itself is copied twice.
        self._buffer = memoryview(bytearray(block_size))
        self._filled = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        left = memoryview(data)
        while left:
            count = min(len(left), self._block_size - self._filled)
            self._buffer[self._filled : self._filled + count] = left[:count]
            self._filled += count
            left = left[count:]
            if self._filled == self._block_size:
                self.complete_blocks.append(bytes(self._buffer))
                self._filled = 0

    @property
    def tail(self) -> bytes:
        """The bytes behind the last whole block."""
        return bytes(self._buffer[: self._filled])

    def __len__(self) -> int:
        return len(self.complete_blocks) * self._block_size + self._filled

    def pop_blocks(self, limit: int) -> list[bytes]:
        """Up to `most` whole blocks, the oldest first."""
        taken, self.complete_blocks = self.complete_blocks[:limit], self.complete_blocks[limit:]
        return taken

    def flush(self) -> list[bytes]:
        """All that is left: the last block may be short."""
        taken = [*self.complete_blocks, self.tail] if self._filled else self.complete_blocks
        self.complete_blocks, self._filled = [], 0
        return taken
