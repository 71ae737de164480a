"""Brings what is written to the disk at once, and lets a writer be no more than a window ahead of it. Linux only.

Without it the kernel begins after seconds, and the sync at the end of a large upload waits for all of it. `posix_fadvise` begins
too, but then lets all processors empty their lists of pages. A sync for each window waits for the journal, and for what is new.
"""

import ctypes
import errno
import os
from collections.abc import Callable

WRITEBACK_WINDOW_BYTES = 16 * 1024 * 1024
"""Bytes of a file that may wait for the disk."""

_WAIT_FOR_WRITE, _START_WRITE = 1, 2
"""SYNC_FILE_RANGE_WAIT_BEFORE and SYNC_FILE_RANGE_WRITE of sync_file_range(2)."""
_CANNOT = frozenset({errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP})

_SyncFileRange = Callable[[int, int, int, int], int]


def _find_sync_file_range() -> _SyncFileRange | None:
    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range  # `os` has no binding
    except (AttributeError, OSError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    call.restype = ctypes.c_int
    return call


_sync_file_range = _find_sync_file_range()


def start_writeback(descriptor: int, offset: int, length: int) -> bool:
    """Begin to write these bytes to the disk, and wait for those that lie a window before them.

    They are not durable then: only a sync makes them so. Returns False where the system cannot do that. Raises OSError as a sync.
    """
    if _sync_file_range is None or not _call(_sync_file_range, descriptor, offset, length, _START_WRITE):
        return False
    if offset >= WRITEBACK_WINDOW_BYTES:
        _call(_sync_file_range, descriptor, offset - WRITEBACK_WINDOW_BYTES, length, _WAIT_FOR_WRITE)
    return True


def has_passed_window(offset: int, end: int) -> bool:
    """Whether a write from `offset` to `end` has filled a window: without `start_writeback` it is time for a sync."""
    return offset // WRITEBACK_WINDOW_BYTES != end // WRITEBACK_WINDOW_BYTES


def _call(sync_file_range: _SyncFileRange, descriptor: int, offset: int, length: int, flags: int) -> bool:
    while sync_file_range(descriptor, offset, length, flags) < 0:
        number = ctypes.get_errno()
        if number in _CANNOT:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
