"""Remote files as seekable objects: reads are ranges of one version, with read-ahead."""

import io
import os
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gridcast._flows.read_ahead import ReadAhead
from gridcast.values import FileInfo

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def _seek(position: int, length: int, offset: int, whence: int) -> int:
    start = {os.SEEK_SET: 0, os.SEEK_CUR: position, os.SEEK_END: length}.get(whence)
    if start is None:
        raise ValueError("whence is 0, 1 or 2")
    if start + offset < 0:
        raise ValueError("a position is not negative")
    return start + offset


class RemoteFile(io.RawIOBase):
    """A remote file as a binary file object: readable and seekable, for one thread at a time.

    All reads are of the version that was opened: FileChanged is raised once it is not there any more. `info` describes it.
    """

    def __init__(self, info: FileInfo, fetch: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self.info = info
        self._fetch = fetch
        self._cache = ReadAhead(info.length)
        self._position = 0

    @property
    def name(self) -> str:
        """The path of the file, as `open` got it."""
        return self.info.path

    @property
    def mode(self) -> str:
        """Always rb."""
        return "rb"

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position in bytes, which may be behind the end, and return it. Nothing is fetched."""
        self._check_open()
        self._position = _seek(self._position, self.info.length, offset, whence)
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the buffer as far as the file goes, and return the number of bytes; 0 at the end."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._position < self.info.length:
            data = self._cache.lookup(self._position, len(view) - filled)
            if not data:
                start, size = self._cache.plan(self._position, len(view) - filled)
                self._cache.store(start, self._fetch(start, size))
                continue
            view[filled : filled + len(data)] = data
            filled += len(data)
            self._position += len(data)
        return filled

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")


class AsyncRemoteFile:
    """A remote file for AsyncClient: as RemoteFile, but `read` is awaited."""

    def __init__(self, info: FileInfo, fetch: Callable[[int, int], Awaitable[bytes]]) -> None:
        self.info = info
        self._fetch = fetch
        self._cache = ReadAhead(info.length)
        self._position = 0

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position in bytes, which may be behind the end, and return it. Nothing is fetched."""
        self._position = _seek(self._position, self.info.length, offset, whence)
        return self._position

    async def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer only at the end; all that is left where it is negative."""
        left = max(self.info.length - self._position, 0)
        missing = left if size < 0 else min(size, left)
        blocks: list[bytes] = []
        while missing:
            data = self._cache.lookup(self._position, missing)
            if not data:
                start, length = self._cache.plan(self._position, missing)
                self._cache.store(start, await self._fetch(start, length))
                continue
            blocks.append(bytes(data))
            missing -= len(data)
            self._position += len(data)
        return b"".join(blocks)

    async def aclose(self) -> None:
        """Release what was read ahead."""
        self._cache = ReadAhead(self.info.length)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
