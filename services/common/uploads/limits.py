"""Limits of one process: how many uploads it receives at the same time, and how full the store's volume may become."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from services.common.errors import GridcastError, InsufficientStorage, ServiceUnavailable, TooManyRequests
from services.common.store.store_state import FreeSpaceReader
from services.common.telemetry import metrics

DISK_SPACE_POLL_SECONDS = 1.0
"""Between two queries of the free space. The bytes of uploads without a stated length must fit below the minimum meanwhile."""
BUSY_RETRY_AFTER_SECONDS = 5
_BUSY_HEADERS = {"retry-after": str(BUSY_RETRY_AFTER_SECONDS)}
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


class SlotHolder(Abortable, Protocol):
    """A request body that holds an upload slot."""

    @property
    def client(self) -> str:
        """The key of the client that sends it."""

    @property
    def average_rate(self) -> float:
        """Bytes per second; infinite where nothing more is awaited from the client."""


class UploadLimiter:
    """Counts the upload requests in progress, refuses those above the limits, and drains them at shutdown.

    `max_per_client` of 0 is half of `max_uploads`. Where all slots are taken, a client that has fewer than another one gets a slot
    of that one: its slowest upload is aborted.
    """

    def __init__(self, max_uploads: int, max_per_client: int = 0) -> None:
        self._max_uploads = max_uploads
        self._max_per_client = max_per_client or max(1, max_uploads // 2)
        self._active_bodies: set[SlotHolder] = set()
        self._by_client: dict[str, set[SlotHolder]] = {}
        metrics.UPLOAD_REQUESTS_IN_FLIGHT.set_function(lambda: len(self._active_bodies))
        self._shutting_down = False
        self._no_active_uploads = asyncio.Event()
        self._no_active_uploads.set()

    @contextmanager
    def acquire_slot(self, body: SlotHolder) -> Iterator[None]:
        """Hold one of the `max_uploads` slots.

        Raises TooManyRequests where the client has too many, ServiceUnavailable where no slot is free, ShuttingDown during
        shutdown.
        """
        self.check_accepting()
        own = self._by_client.get(body.client, set())
        if len(own) >= self._max_per_client:
            raise TooManyRequests("too many concurrent uploads from this address", _BUSY_HEADERS)
        if sum(map(len, self._by_client.values())) >= self._max_uploads:
            self._preempt(len(own))
        self._active_bodies.add(body)
        self._by_client.setdefault(body.client, set()).add(body)
        self._no_active_uploads.clear()
        try:
            yield
        finally:
            self._active_bodies.discard(body)
            self._release(body)
            if not self._active_bodies:
                self._no_active_uploads.set()

    def _preempt(self, own_count: int) -> None:
        """Take a slot from the client with the most, if it keeps as many as the new one gets. Raises ServiceUnavailable."""
        holders = max(self._by_client.values(), key=len)
        slowest = min(holders, key=lambda body: body.average_rate)
        if len(holders) - 1 < own_count + 1 or slowest.average_rate == math.inf:
            raise ServiceUnavailable("too many concurrent uploads", BUSY_RETRY_AFTER_SECONDS)
        # Counted no more, though its request takes a moment to end.
        self._release(slowest)
        slowest.abort(TooManyRequests("the place of this upload was given to another client", _BUSY_HEADERS))

    def _release(self, body: SlotHolder) -> None:
        holders = self._by_client.get(body.client, set())
        holders.discard(body)
        if not holders:
            self._by_client.pop(body.client, None)

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
