"""Cuts bytes, in pieces of any size, into blocks of one size. Pure: it knows neither store nor hash.

A block is filled in a buffer of its own size that is used again and again: memory that grows costs more than the bytes' copies.
"""


class Blocks:
    """The whole blocks that nobody has taken yet, and the beginning of the next one."""

    def __init__(self, size: int) -> None:
        self.whole: list[bytes] = []
        self._size = size
        # A view: what is assigned to a slice of a bytearray itself is copied twice.
        self._next = memoryview(bytearray(size))
        self._filled = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        left = memoryview(data)
        while left:
            count = min(len(left), self._size - self._filled)
            self._next[self._filled : self._filled + count] = left[:count]
            self._filled += count
            left = left[count:]
            if self._filled == self._size:
                self.whole.append(bytes(self._next))
                self._filled = 0

    @property
    def tail(self) -> bytes:
        """The bytes behind the last whole block."""
        return bytes(self._next[: self._filled])

    def __len__(self) -> int:
        return len(self.whole) * self._size + self._filled

    def take(self, most: int) -> list[bytes]:
        """Up to `most` whole blocks, the oldest first."""
        taken, self.whole = self.whole[:most], self.whole[most:]
        return taken

    def end(self) -> list[bytes]:
        """All that is left: the last block may be short."""
        taken = [*self.whole, self.tail] if self._filled else self.whole
        self.whole, self._filled = [], 0
        return taken
