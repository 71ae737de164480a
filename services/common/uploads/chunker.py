"""Cuts bytes, arriving in pieces of any size, into blocks of one size. Pure.

Pieces are kept as they came until a block is complete, which is then made in one copy. Small ones are collected: of one byte
each they would take fifty times their size.
"""

SMALL_PIECE = 8 * 1024
"""Bytes of a piece that is copied when it comes."""


class Chunker:
    """Collects bytes: complete blocks that were not taken yet, and the beginning of the next one. A piece must not change later."""

    def __init__(self, block_size: int) -> None:
        self.complete_blocks: list[bytes] = []
        self._block_size = block_size
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._filled = 0

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        size, missing = len(data), self._block_size - self._filled
        if size < missing:
            self._keep(data)
            return
        view = memoryview(data)
        self._pieces.append(view[:missing])
        self.complete_blocks.append(b"".join(self._pieces))
        self._pieces.clear()
        self._filled = 0
        while size - missing >= self._block_size:
            self.complete_blocks.append(bytes(view[missing : missing + self._block_size]))
            missing += self._block_size
        self._keep(view[missing:])

    def _keep(self, data: bytes | memoryview) -> None:
        if len(data) >= SMALL_PIECE:
            self._pieces.append(data)
        elif self._pieces and isinstance(last := self._pieces[-1], bytearray):
            last += data
        elif data:
            self._pieces.append(bytearray(data))
        self._filled += len(data)

    @property
    def tail(self) -> bytes:
        """The bytes after the last complete block."""
        return b"".join(self._pieces)

    def __len__(self) -> int:
        return len(self.complete_blocks) * self._block_size + self._filled

    def pop_blocks(self, limit: int) -> list[bytes]:
        """Remove and return up to `limit` complete blocks, the oldest first."""
        popped, self.complete_blocks = self.complete_blocks[:limit], self.complete_blocks[limit:]
        return popped

    def flush(self) -> list[bytes]:
        """Remove and return all that is left: the last block may be short."""
        blocks = [*self.complete_blocks, self.tail] if self._filled else self.complete_blocks
        self.complete_blocks, self._pieces, self._filled = [], [], 0
        return blocks
