"""Cuts bytes, arriving in pieces of any size, into blocks of one size. Pure.

Pieces are kept as they came until their block is complete, and then copied once. Small ones are collected in a buffer: each of them
would take more memory than its bytes.
"""

SMALL_PIECE_BYTES = 4096
"""Pieces below this size are collected: a block is made of at most twice as many pieces as it has such sizes."""


class Chunker:
    """Collects bytes: complete blocks that were not taken yet, and the beginning of the next one."""

    def __init__(self, block_size: int) -> None:
        self.complete_blocks: list[bytes] = []
        self._block_size = block_size
        self._pieces: list[bytes | bytearray | memoryview] = []
        self._filled = 0

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        if self._filled + len(data) < self._block_size:
            if data:
                self._add(data)
            return
        view, start = memoryview(data), 0
        while (end := start + self._block_size - self._filled) <= len(data):
            self.complete_blocks.append(b"".join((*self._pieces, view[start:end])))
            self._pieces, self._filled = [], 0
            start = end
        if start < len(data):
            self._add(view[start:])

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

    def _add(self, piece: bytes | memoryview) -> None:
        self._filled += len(piece)
        if len(piece) >= SMALL_PIECE_BYTES:
            self._pieces.append(piece)
        elif self._pieces and isinstance(last := self._pieces[-1], bytearray):
            last += piece
        else:
            self._pieces.append(bytearray(piece))
