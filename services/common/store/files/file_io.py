"""Reads, writes, copies, locks and syncs open files. All calls block."""

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from services.common.errors import GridcastError, InsufficientStorage, ServiceUnavailable
from services.common.store.errors import CorruptFile

COPY_BYTES = 8 * 1024 * 1024
"""Bytes copied by one call of copy_file_range."""
SYNC_BYTES = 16 * 1024 * 1024
"""A file is synced once in this many bytes: its last sync is short, and a client is read no faster than the disk writes."""

_log = logging.getLogger("gridcast.store")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CANNOT_COPY = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EXDEV})
_NOT_AS_WRITTEN = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO})


def try_lock(descriptor: int) -> bool:
    """Lock a file against all other writers until the descriptor is closed; False where another one holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_at(
    descriptor: int,
    offset: int,
    pieces: Sequence[bytes],
    *,
    sync: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> None:
    """Write all pieces from `offset` on, and begin to bring them to the disk; with `sync` the whole file is durable then.

    `meanwhile` is called while the disk writes.
    """
    with map_write_errors():
        position = offset
        # One call for each: of one for the whole batch Linux makes pages of up to 2 MiB, and in a virtual machine whose host takes
        # free memory back each of them is a fault of the host: 420 ms of CPU for 100 MB instead of 295.
        for piece in pieces:
            view = memoryview(piece)
            while view:
                count = os.pwrite(descriptor, view, position)
                position += count
                view = view[count:]
        if hasattr(os, "posix_fadvise"):
            # Linux begins to write dirty pages of the range, and drops none of them: the sync that follows waits less.
            os.posix_fadvise(descriptor, offset, position - offset, os.POSIX_FADV_DONTNEED)
    if meanwhile is not None:
        meanwhile()
    if sync or offset // SYNC_BYTES != position // SYNC_BYTES:
        with map_write_errors():
            sync_data(descriptor)


def sync_data(descriptor: int) -> None:
    """Make all bytes of a file durable, and its length."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:  # macOS, whose fsync leaves the bytes in the cache of the disk
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]


def truncate_to(descriptor: int, length: int) -> None:
    """Cut off what is beyond `length` bytes."""
    with map_write_errors():
        if os.fstat(descriptor).st_size > length:
            os.ftruncate(descriptor, length)


def copy_range(source: int, target: int, start: int, offset: int, length: int) -> None:
    """Copy `length` bytes, within the kernel where it can do that. Raises CorruptFile where the source has fewer."""
    with map_write_errors():
        while length:
            count = _copy_once(source, target, min(length, COPY_BYTES), start, offset)
            if not count:
                raise CorruptFile("a file is shorter than what was written")
            start, offset, length = start + count, offset + count, length - count


def _copy_once(source: int, target: int, length: int, start: int, offset: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, length, start, offset)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
    return os.pwrite(target, os.pread(source, min(length, 2**20), start), offset)


def read_at(descriptor: int, start: int, length: int) -> bytes:
    """Read up to `length` bytes; fewer at the end of the file only."""
    data = os.pread(descriptor, length, start)
    while 0 < len(data) < length:  # interrupted, or a file system that reads in pieces
        more = os.pread(descriptor, length - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


@contextmanager
def map_write_errors(pass_on: type[OSError] | tuple[type[OSError], ...] = ()) -> Iterator[None]:
    """Map errors of the operating system to InsufficientStorage and ServiceUnavailable; those of `pass_on` pass unchanged."""
    try:
        yield
    except OSError as error:
        if isinstance(error, pass_on):
            raise
        raise _map_error(error) from error


@contextmanager
def map_read_errors(file_id: str) -> Iterator[None]:
    """Map a file that is missing, or a symbolic link, to CorruptFile, and everything else to ServiceUnavailable."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_AS_WRITTEN:
            raise CorruptFile(f"file {file_id}: {error.strerror}") from error
        raise _map_error(error) from error


def _map_error(error: OSError) -> GridcastError:
    if error.errno in _FULL:
        return InsufficientStorage("insufficient disk space for this file")
    _log.error("the folder of the files cannot be used: %s", error.strerror)
    return ServiceUnavailable("the files cannot be read or written")
