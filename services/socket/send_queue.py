"""What waits for a client that reads more slowly than events come: a queue bounded by bytes and by count.

Pure: it holds frames and says when there are too many; closing the socket is its owner's part.
"""

MAX_QUEUED_BYTES = 1024 * 1024
MAX_QUEUED_FRAMES = 256


class SendQueue:
    """Frames in the order in which they were offered.

    A frame with a key takes the place of a waiting one with that key. It goes to the end of the queue: events leave in
    the order of their numbers, so that the last number a client saw says what it has missed.
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
        """Bytes that wait."""
        return self._bytes

    def enqueue(self, frame: bytes, conflation_key: str = "") -> bool:
        """Queue `frame`. False where that is more than a client may leave unread; then nothing was queued."""
        if conflation_key and (place := self._index_by_key.pop(conflation_key, None)) is not None:
            self._bytes -= len(self._frames.pop(place)[0])
        if len(self._frames) >= MAX_QUEUED_FRAMES or self._bytes + len(frame) > MAX_QUEUED_BYTES:
            return False
        self._frames[self._next_index] = (frame, conflation_key)
        if conflation_key:
            self._index_by_key[conflation_key] = self._next_index
        self._next_index += 1
        self._bytes += len(frame)
        return True

    def dequeue(self) -> bytes:
        """The frame that has waited longest. KeyError where none waits."""
        place = next(iter(self._frames), -1)
        frame, key = self._frames.pop(place)
        if key:
            del self._index_by_key[key]
        self._bytes -= len(frame)
        return frame

    def clear(self) -> None:
        """Forget all that waits."""
        self._frames.clear()
        self._index_by_key.clear()
        self._bytes = 0
