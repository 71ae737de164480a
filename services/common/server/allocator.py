"""Bounds the memory that glibc's malloc keeps: one arena for all threads, and freed memory returned to the system.

By default each thread of a MongoDB driver has an arena of its own that keeps what the thread has freed: a stream service held
490 to 550 MiB with a cache of 256 MiB, with one arena 336 MiB. And malloc returns only what is free at the top of the heap: a
gateway kept all of the buffers of 300 stopped readers after they had gone, 128 of 37 MiB. What is at the top it returns at once,
and large blocks too, so that each batch of an upload was made of new pages: 113 ms of CPU for 32 MiB, 80 with the thresholds below.

Where the C library is another one (musl, macOS) nothing is done.
"""

import ctypes
import sys
import threading

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""mallopt(3)."""
KEPT_BYTES = 32 * 1024 * 1024
"""Free memory at the top of the heap that is kept between two trims."""
MAPPED_BLOCK_BYTES = 4 * 1024 * 1024
"""Blocks of this size have a mapping of their own; a batch of an upload, 2 MiB, is taken from the heap."""
TRIM_INTERVAL_SECONDS = 5.0
"""Seconds between two looks at the free memory."""
MIN_FREE_BYTES = 4 * 1024 * 1024
"""Memory that is trimmed: as much was free at two looks in a row. Trimming 100 MiB takes about 10 ms."""


class _MallInfo2(ctypes.Structure):
    """The result of mallinfo2(3); `fordblks` are the free bytes of all arenas."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def configure_allocator() -> bool:
    """Allow one arena, and start a thread that trims the heap. Returns whether it was possible.

    Call it before other threads start.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None)
    try:
        mallopt, mallinfo2, malloc_trim = libc.mallopt, libc.mallinfo2, libc.malloc_trim
    except AttributeError:  # not glibc, or older than 2.33
        return False
    mallinfo2.restype = _MallInfo2
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(M_MMAP_THRESHOLD, MAPPED_BLOCK_BYTES)

    def trim_forever() -> None:
        free_before = 0
        idle = threading.Event()
        while not idle.wait(TRIM_INTERVAL_SECONDS):
            free = mallinfo2().fordblks
            if min(free, free_before) > MIN_FREE_BYTES:
                malloc_trim(0)
                free = 0
            free_before = free

    threading.Thread(target=trim_forever, name="allocator", daemon=True).start()
    return True
