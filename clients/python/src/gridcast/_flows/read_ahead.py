"""Which range to fetch next for a reader that seeks: more the longer it reads in order, with the last ranges kept. No I/O."""

from collections import OrderedDict

MIN_FETCH_BYTES = 64 * 1024
MAX_FETCH_BYTES = 4 * 1024 * 1024
CACHE_BYTES = 16 * 1024 * 1024


class ReadAhead:
    """Ranges of one file of `length` bytes that were fetched, the least recently used ones dropped beyond 16 MiB."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._ranges: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0
        self._next_fetch = MIN_FETCH_BYTES
        self._last_end = 0

    def lookup(self, position: int, size: int) -> memoryview:
        """Return the bytes at a position that are here, at most `size`; empty where none are."""
        for start in reversed(self._ranges):
            data = self._ranges[start]
            if start <= position < start + len(data):
                self._ranges.move_to_end(start)
                return memoryview(data)[position - start : position - start + size]
        return memoryview(b"")

    def plan(self, position: int, size: int) -> tuple[int, int]:
        """Return start and size of the range to fetch for a read that `lookup` does not serve.

        It doubles up to 4 MiB as long as each one begins where the last one ended, and begins at 64 KiB again elsewhere.
        """
        self._next_fetch = min(self._next_fetch * 2, MAX_FETCH_BYTES) if position == self._last_end else MIN_FETCH_BYTES
        wanted = max(self._next_fetch, min(size, MAX_FETCH_BYTES))
        return position, min(wanted, self._length - position)

    def store(self, start: int, data: bytes) -> None:
        """Keep a range that was fetched."""
        self._size += len(data) - len(self._ranges.pop(start, b""))
        self._ranges[start] = data
        self._last_end = start + len(data)
        while self._size > CACHE_BYTES and len(self._ranges) > 1:
            _, dropped = self._ranges.popitem(last=False)
            self._size -= len(dropped)
