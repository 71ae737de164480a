"""Limits of one process: how many uploads it receives at the same time, and how full the store's volume may become."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from services.common.errors import GridcastError, InsufficientStorage, ServiceUnavailable
from services.common.store.upload_store import FreeSpaceReader
from services.common.telemetry import metrics

DISK_SPACE_POLL_SECONDS = 1.0
"""Between two queries of the free space. The bytes of uploads without a stated length must fit below the minimum meanwhile."""
BUSY_RETRY_AFTER_SECONDS = 5
ABORT_TIMEOUT_SECONDS = 1.0
"""How long an aborted upload may take to end; the server takes about a second more. While the database did not respond, a process
ended 2.4 s after the shutdown timeout with PyMongo's own driver, and 8.3 s after it with Motor."""

_log = logging.getLogger("gridcast.upload")


class ShuttingDown(ServiceUnavailable):
    """503 because this process ends, while the store is available."""

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


class Abortable(Protocol):
    """A request body that can be aborted from another task."""

    def abort(self, error: GridcastError) -> None:
        """Make the reader raise `error`."""


class UploadLimiter:
    """Counts the upload requests in progress, refuses those above the limit, and drains them at shutdown."""

    def __init__(self, max_uploads: int) -> None:
        self._max_uploads = max_uploads
        self._active_bodies: set[Abortable] = set()
        metrics.UPLOAD_REQUESTS_IN_FLIGHT.set_function(lambda: len(self._active_bodies))
        self._shutting_down = False
        self._no_active_uploads = asyncio.Event()
        self._no_active_uploads.set()

    @contextmanager
    def acquire_slot(self, body: Abortable) -> Iterator[None]:
        """Hold one of the `max_uploads` slots. Raises ServiceUnavailable where none is free, ShuttingDown during shutdown."""
        self.check_accepting()
        if len(self._active_bodies) >= self._max_uploads:
            raise ServiceUnavailable("too many concurrent uploads", BUSY_RETRY_AFTER_SECONDS)
        self._active_bodies.add(body)
        self._no_active_uploads.clear()
        try:
            yield
        finally:
            self._active_bodies.discard(body)
            if not self._active_bodies:
                self._no_active_uploads.set()

    def check_accepting(self) -> None:
        """Raises ShuttingDown during shutdown."""
        if self._shutting_down:
            raise ShuttingDown

    def abort_all(self, error: GridcastError) -> None:
        """Abort every upload in progress with `error`."""
        for body in self._active_bodies:
            body.abort(error)

    async def drain(self, timeout_seconds: float) -> None:
        """Refuse new uploads, wait for those in progress, then abort them: what can be resumed is made durable and kept."""
        self._shutting_down = True
        await self._wait_until_drained(timeout_seconds)
        self.abort_all(ShuttingDown())
        await self._wait_until_drained(ABORT_TIMEOUT_SECONDS)

    async def _wait_until_drained(self, timeout_seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._no_active_uploads.wait()


class DiskSpaceMonitor:
    """Keeps `min_free_bytes` free on the store's volume: refuses uploads that do not fit, and aborts all below the minimum.

    With 0 it does nothing. `abort_all` is called with the error to abort the uploads in progress with.
    """

    def __init__(self, min_free_bytes: int, abort_all: Callable[[GridcastError], object]) -> None:
        self._min_free_bytes = min_free_bytes
        self._abort_all = abort_all
        self._free_bytes: int | None = None

    def reserve(self, length: int | None) -> None:
        """Reserve the bytes of an upload until the next query, so that concurrent uploads are not promised the same space.

        None is a length that is not known yet. Raises InsufficientStorage where less than the minimum would stay free.
        """
        if self._min_free_bytes and self._free_bytes is not None:
            if self._free_bytes - (length or 0) < self._min_free_bytes:
                raise InsufficientStorage("insufficient disk space for this file")
            self._free_bytes -= length or 0

    async def run(self, store: FreeSpaceReader) -> None:
        """Query the free space until cancelled. Below the minimum nothing more is received, whatever was reserved of it."""
        while self._min_free_bytes:
            try:
                self._free_bytes = await store.get_free_bytes()
            except GridcastError as error:
                _log.debug("free disk space unknown: %s", error)
            except Exception as error:  # noqa: BLE001  # the next query may succeed, for example after a right was granted
                _log.warning("free disk space unknown: %s", error)
            if self._free_bytes is not None and self._free_bytes < self._min_free_bytes:
                self._abort_all(InsufficientStorage("insufficient disk space for this file"))
            await asyncio.sleep(DISK_SPACE_POLL_SECONDS)
