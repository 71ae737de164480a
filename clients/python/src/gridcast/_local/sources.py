"""Sources of uploads: a path, a file object, bytes, or an iterator of bytes. The source of a live stream: whatever an encoder has
written by now, so that nothing waits for a full block.
"""

import hashlib
import io
import os
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from gridcast._flows.effects import ByteSource
from gridcast.errors import InvalidRequest, SourceChanged

HASH_BLOCK_BYTES = 1024 * 1024


class PathSource:
    """A file by its path. A thread computes its SHA-256 from the first byte on, also where the upload continues an older one."""

    can_rewind = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=0)
        state = os.fstat(self._file.fileno())
        if not path.is_file():
            self._file.close()
            raise InvalidRequest(f"{path} is not a regular file")
        self.size: int | None = state.st_size
        self.fingerprint = _fingerprint(state)
        self._hash: _BackgroundHash | None = None

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, and fewer only at the end."""
        if self._hash is None:
            self._hash = _BackgroundHash(self._path)
        return read_fully(self._file.read, size)

    def seek(self, offset: int) -> None:
        self._file.seek(offset)

    def check_unchanged(self) -> None:
        try:
            now = self._path.stat()
        except OSError:
            raise SourceChanged("the file is not there any more") from None
        if _fingerprint(now) != self.fingerprint:
            raise SourceChanged("the file was changed while it was sent; nothing of it stays stored")

    def finish_digest(self) -> str:
        if self._hash is None:
            self._hash = _BackgroundHash(self._path)
        return self._hash.wait()

    def close(self) -> None:
        if self._hash is not None:
            self._hash.stop()
        self._file.close()


class StreamSource:
    """A file object, bytes or an iterator: hashed as it is read, each byte once. `can_rewind` where it has a `seek` that works."""

    fingerprint = ""

    def __init__(
        self, read: Callable[[int], bytes], *, size: int | None = None, seek: Callable[[int], object] | None = None
    ) -> None:
        self._read = read
        self._seek = seek
        self.size = size
        self.can_rewind = seek is not None
        self._digest = hashlib.sha256()
        self._hashed = 0
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, and fewer only at the end."""
        return self.record(read_fully(self._read, size))

    def record(self, data: bytes) -> bytes:
        """Hash what was read for the first time."""
        fresh = self._position + len(data) - self._hashed
        if fresh > 0:
            self._digest.update(data[-fresh:] if fresh < len(data) else data)
            self._hashed += fresh
        self._position += len(data)
        return data

    def seek(self, offset: int) -> None:
        if self._seek is None:
            raise InvalidRequest("this source cannot be read again")
        self._seek(offset)
        self._position = offset

    def check_unchanged(self) -> None:
        """A stream has nothing to compare; the digest tells."""

    def finish_digest(self) -> str:
        return self._digest.hexdigest()

    def close(self) -> None:
        """The caller's own file stays open."""


class AsyncIteratorSource(StreamSource):
    """An asynchronous iterator of bytes, for AsyncClient."""

    def __init__(self, blocks: AsyncIterable[bytes]) -> None:
        super().__init__(_cannot_block)
        self._blocks: AsyncIterator[bytes] = aiter(blocks)
        self._rest = b""

    async def read_async(self, size: int) -> bytes:
        """Return exactly `size` bytes, and fewer only at the end."""
        blocks, count = [self._rest], len(self._rest)
        while count < size:
            try:
                block = bytes(await anext(self._blocks))
            except StopAsyncIteration:
                break
            blocks.append(block)
            count += len(block)
        data = b"".join(blocks)
        self._rest = data[size:]
        return self.record(data[:size])


def open_source(source: object, size: int | None = None) -> ByteSource:
    """Return a source for a path, bytes, a binary file object or an iterable of bytes.

    `size` in bytes is what the caller knows of a stream. Raises InvalidRequest for anything else, OSError for a path that cannot be
    read.
    """
    if isinstance(source, str | os.PathLike):
        return PathSource(Path(source))
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        return _bytes_source(content)
    if isinstance(source, io.TextIOBase):
        raise InvalidRequest("the source gives text: open it in binary mode")
    if hasattr(source, "read"):
        return _file_source(source, size)  # type: ignore[arg-type]  # any object that reads bytes
    if isinstance(source, Iterable):
        return StreamSource(_IteratorReader(iter(source)).read, size=size)
    raise InvalidRequest("a source is a path, bytes, a binary file object, or an iterator of bytes")


def open_async_source(source: object, size: int | None = None) -> ByteSource:
    """Open what is uploaded from an event loop: also an asynchronous iterable of bytes. Raises as `open_source`."""
    if isinstance(source, AsyncIterable) and not hasattr(source, "read"):
        opened = AsyncIteratorSource(source)
        opened.size = size
        return opened
    return open_source(source, size)


def _bytes_source(content: bytes) -> StreamSource:
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        block = content[position : position + size]
        position += len(block)
        return block

    def seek(offset: int) -> None:
        nonlocal position
        position = offset

    return StreamSource(read, size=len(content), seek=seek)


def _file_source(file: BinaryIO, size: int | None) -> StreamSource:
    try:
        start = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(start)
    except (AttributeError, OSError, ValueError):
        return StreamSource(file.read, size=size)
    return StreamSource(file.read, size=end - start, seek=lambda offset: file.seek(start + offset))


class _IteratorReader:
    """Reads an iterator of blocks as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks

    def read(self, size: int) -> bytes:
        """Return the next block, in pieces of at most `size` bytes; b"" at the end."""
        for block in self._blocks:
            data = bytes(block)
            if len(data) > size:
                self._blocks = _chain(data[size:], self._blocks)
                return data[:size]
            if data:
                return data
        return b""


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def read_fully(read: Callable[[int], bytes], size: int) -> bytes:
    """Read until `size` bytes are there or the source ends. Raises InvalidRequest for a source of text."""
    blocks: list[bytes] = []
    missing = size
    while missing:
        block = read(missing)
        if not isinstance(block, bytes | bytearray):
            raise InvalidRequest("the source does not give bytes: open it in binary mode, and blocking")
        if not block:
            break
        blocks.append(block)
        missing -= len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


def _cannot_block(size: int) -> bytes:
    del size
    raise InvalidRequest("an asynchronous iterator is for AsyncClient")


def _fingerprint(state: os.stat_result) -> str:
    return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ino}"


class _BackgroundHash:
    """The SHA-256 of a file, computed beside the upload: hashlib releases the GIL."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._error: OSError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gridcast-hash", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._path.open("rb", buffering=0) as file:
                while not self._stopped.is_set() and (block := file.read(HASH_BLOCK_BYTES)):
                    self._digest.update(block)
        except OSError as error:
            self._error = error

    def wait(self) -> str:
        """Return the digest in hex. Raises SourceChanged where the file could not be read to its end."""
        while self._thread.is_alive():
            self._thread.join(0.2)  # an interrupt by Ctrl-C comes between two waits
        if self._error is not None:
            raise SourceChanged(f"the file could not be read again: {self._error.strerror}") from None
        return self._digest.hexdigest()

    def stop(self) -> None:
        """End early."""
        self._stopped.set()


ENCODER_READ_BYTES = 64 * 1024
MAX_BUFFERED_BYTES = 32 * 1024 * 1024
"""Bytes that are kept while the server is away. Beyond it the encoder has to wait."""
GATHER_SECONDS = 0.2
"""How long the first byte waits for others: fewer and larger requests."""


class LiveSource:
    """A binary file object or pipe, read by a thread of its own."""

    def __init__(self, file: BinaryIO) -> None:
        read: Callable[[int], bytes] | None = getattr(file, "read1", None) or getattr(file, "read", None)
        if read is None:
            raise InvalidRequest("the source of a live stream is a binary file object")
        self._read = read
        self._blocks: deque[bytes] = deque()
        self._buffered = 0
        self._has_ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="gridcast-live", daemon=True).start()

    def read(self, size: int) -> bytes:
        """Return what has come, at most `size` bytes; b"" at the end. Waits for the first byte."""
        with self._changed:
            self._changed.wait_for(lambda: self._blocks or self._has_ended)
            if self._buffered < size and not self._has_ended:
                self._changed.wait_for(lambda: self._buffered >= size or self._has_ended, GATHER_SECONDS)
            if self._error is not None and not self._blocks:
                raise self._error
            data = b"".join(self._blocks)
            self._blocks.clear()
            if len(data) > size:
                self._blocks.append(data[size:])
            self._buffered = max(0, len(data) - size)
            self._changed.notify_all()
            return data[:size]

    def stop(self) -> None:
        """Take nothing more; what has come is still read."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while block := self._read(ENCODER_READ_BYTES):
                if not isinstance(block, bytes | bytearray):
                    raise InvalidRequest("the source does not give bytes: open it in binary mode, and blocking")  # noqa: TRY301
                with self._changed:
                    self._changed.wait_for(lambda: self._buffered < MAX_BUFFERED_BYTES or self._has_ended)
                    if self._has_ended:
                        return
                    self._blocks.append(bytes(block))
                    self._buffered += len(block)
                    self._changed.notify_all()
        except (OSError, ValueError, InvalidRequest) as error:
            self._error = error
        finally:
            self.stop()
