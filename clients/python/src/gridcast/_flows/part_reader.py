"""Reads a source in parts, and keeps the part that is under way, so that a stream that cannot rewind can still send it again."""

from gridcast._flows.effects import ByteSource, Flow, ReadSource, call
from gridcast.errors import ServerUnavailable, SourceChanged


class PartReader:
    """The bytes of a source from any position that is in memory, or that the source can rewind to."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._start = 0
        self._kept = memoryview(b"")  # sliced without a copy: a stream may have 16 MiB here
        self._has_ended = False

    def peek(self, size: int) -> Flow[bytes]:
        """Return the next bytes without consuming them: `size`, and fewer only at the end."""
        yield from self._fill(size)
        return _to_bytes(self._kept[:size])

    def part(self, offset: int, size: int) -> Flow[tuple[bytes, bool]]:
        """Return the bytes from `offset` on, at most `size`, and whether the source ends with them.

        Raises:
            ServerUnavailable: the position is neither in memory nor can the source rewind to it.

        """
        if not self._start <= offset <= self._start + len(self._kept):
            if not self._source.can_rewind:
                raise ServerUnavailable("the server has lost bytes of a stream that cannot be read again")
            yield from call(lambda: self._source.seek(offset))
            self._start, self._kept, self._has_ended = offset, memoryview(b""), False
        self._kept = self._kept[offset - self._start :]
        self._start = offset
        # One byte more shows whether this is the last part, where the length is not known.
        yield from self._fill(size + (self._source.size is None))
        part = _to_bytes(self._kept[:size])
        size_known = self._source.size
        if size_known is not None and self._has_ended and offset + len(part) < size_known:
            raise SourceChanged("the source ended before its length")
        is_last = (
            self._has_ended and len(self._kept) <= size if size_known is None else offset + len(part) >= size_known
        )
        return part, is_last

    def _fill(self, size: int) -> Flow[None]:
        missing = size - len(self._kept)
        if self._source.size is not None:
            missing = min(missing, self._source.size - self._start - len(self._kept))
        if missing <= 0 or self._has_ended:
            return
        data: bytes = yield ReadSource(self._source, missing)
        self._has_ended = len(data) < missing
        self._kept = memoryview(b"".join((self._kept, data)) if self._kept else data)


def _to_bytes(view: memoryview) -> bytes:
    """Return the bytes of a view: those that it is a view of, where it is one of all."""
    return view.obj if isinstance(view.obj, bytes) and len(view.obj) == len(view) else bytes(view)
