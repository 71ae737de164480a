"""The send queue of a client that reads more slowly than events arrive, bounded in frames and in bytes."""

MAX_QUEUED_BYTES = 1024 * 1024
MAX_QUEUED_FRAMES = 256


class SendQueue:
    """Frames in the order in which they were queued. The owner disconnects a client whose queue is full.

    A frame with a conflation key replaces a queued one with that key. It goes to the end of the queue: events leave in the order of
    their offsets, so that the last sequence a client has read says what it has missed.
    """

    __slots__ = ("_bytes", "_frames", "_index_by_key", "_next_index")

    def __init__(self) -> None:
        self._frames: dict[int, tuple[bytes, str]] = {}
        self._index_by_key: dict[str, int] = {}
        self._next_index = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size_bytes(self) -> int:
        """Bytes in the queue."""
        return self._bytes

    def enqueue(self, frame: bytes, conflation_key: str = "") -> bool:
        """Queue `frame`. Returns False if the queue is full; then nothing was queued."""
        if conflation_key and (index := self._index_by_key.pop(conflation_key, None)) is not None:
            self._bytes -= len(self._frames.pop(index)[0])
        if len(self._frames) >= MAX_QUEUED_FRAMES or self._bytes + len(frame) > MAX_QUEUED_BYTES:
            return False
        self._frames[self._next_index] = (frame, conflation_key)
        if conflation_key:
            self._index_by_key[conflation_key] = self._next_index
        self._next_index += 1
        self._bytes += len(frame)
        return True

    def dequeue(self) -> bytes:
        """Remove and return the oldest frame. Raises KeyError if the queue is empty."""
        index = next(iter(self._frames), -1)
        frame, key = self._frames.pop(index)
        if key:
            del self._index_by_key[key]
        self._bytes -= len(frame)
        return frame

    def clear(self) -> None:
        """Remove all frames."""
        self._frames.clear()
        self._index_by_key.clear()
        self._bytes = 0
